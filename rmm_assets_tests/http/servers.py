"""Provides servers on loopback for what the simulator cannot do: scripted responses, TLS, and bytes that are not HTTP."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Seen:
    """A request as the server received it; `raw` contains request line, headers and body, for searches."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    at: float

    @property
    def raw(self) -> str:
        return f"{self.target}\n{dict(self.headers)}\n{self.body!r}"


@dataclass(frozen=True)
class Say:
    """A response. A body that is not bytes is sent as JSON."""

    body: Any = field(default_factory=dict)
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None
    """A Content-Length that lies."""


class Scripted:
    """An HTTP/1.1 server whose responses come from a function, and which records the requests.

    Args:
        answer: Returns the response to a request; None closes the connection without one.
        context: The TLS context; None for plain http.
    """

    def __init__(self, answer: Callable[[Seen], Say | None], *, context: ssl.SSLContext | None = None) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def setup(self) -> None:
                super().setup()
                with scripted._lock:
                    scripted.connections += 1
                    self.number = scripted.connections

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                seen = Seen(self.command, self.path, headers, body, self.number, time.monotonic())
                with scripted._lock:
                    scripted.seen.append(seen)
                    scripted._now += 1
                    scripted.most_at_once = max(scripted.most_at_once, scripted._now)
                try:
                    say = answer(seen)
                finally:
                    with scripted._lock:
                        scripted._now -= 1
                if say is None:
                    self.close_connection = True
                    return
                content = say.body if isinstance(say.body, bytes) else json.dumps(say.body).encode()
                self.send_response_only(say.status)
                names = {name.lower() for name, _ in say.headers}
                for name, value in say.headers:
                    self.send_header(name, value)
                if "content-type" not in names:
                    self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content) if say.length is None else say.length))
                self.end_headers()
                self.wfile.write(content)
                self.wfile.flush()
                self.close_connection |= say.length is not None

            do_POST = do_PATCH = do_HEAD = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingMixIn, TCPServer):
            daemon_threads = True
            block_on_close = False
            allow_reuse_address = True
            request_queue_size = 64

            def get_request(self) -> tuple[socket.socket, Any]:
                accepted, address = super().get_request()
                if context is not None:
                    accepted = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
                return accepted, address

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # these tests disconnect on purpose

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[int]]]:
    """Runs a server that sends raw bytes: `talk` handles each connection, in its own thread.

    Yields:
        Its http URL, and a list that grows by one entry per connection.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[int] = []

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            talk(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, address = listener.accept()
                accepted.append(address[1])
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", accepted
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def reset(connection: socket.socket) -> None:
    """Reads the request and responds with RST."""
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def silent(connection: socket.socket) -> None:
    """Reads the request and sends nothing until the client disconnects."""
    while connection.recv(65536):
        pass


def drip(head: bytes, byte: bytes, pause: float = 0.05) -> Callable[[socket.socket], None]:
    """Sends `head` immediately, then one byte at a time, for longer than any test waits."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head)
        for _ in range(100):
            connection.sendall(byte)
            time.sleep(pause)

    return talk


def free_port() -> int:
    """Returns a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Certificates:
    """A CA, and a server's certificate that it signed.

    Attributes:
        authority: PEM file of the CA's certificate.
    """

    authority: Path
    chain: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Returns the TLS context of a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context


def make_certificates(
    folder: Path, *, host: str = "127.0.0.1", days: int = 1, self_signed: bool = False
) -> Certificates:
    """Creates certificates for a server at `host`, in PEM files.

    Args:
        days: Days until they expire; negative if they have expired.
        self_signed: Whether the server's certificate is its own CA.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A private authority")])
    server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    begin = now - datetime.timedelta(days=30)
    end = now + datetime.timedelta(days=days)

    def builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
        )

    def usage(*, authority: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=True, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
            decipher_only=False,
        )  # fmt: skip

    authority = (
        builder(authority_name, authority_name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    try:
        name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        name = x509.DNSName(host)
    server = (
        builder(server_name, server_name if self_signed else authority_name, server_key)
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(authority=False), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(
                (server_key if self_signed else authority_key).public_key()
            ),
            critical=False,
        )
        .sign(server_key if self_signed else authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    made = Certificates(folder / "authority.pem", folder / "chain.pem", folder / "key.pem")
    made.authority.write_bytes(authority.public_bytes(pem))
    made.chain.write_bytes(server.public_bytes(pem))
    made.key.write_bytes(server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return made
