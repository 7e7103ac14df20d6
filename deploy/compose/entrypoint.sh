#!/bin/sh
# Sets each variable NAME to the content of the secret that NAME_FILE names, as the images of databases do, and runs the command.
set -eu
for name in $(env | sed -n 's|^\([A-Za-z_][A-Za-z0-9_]*\)_FILE=/run/secrets/.*|\1|p'); do
    eval "file=\$${name}_FILE"
    if ! value=$(cat "$file"); then
        echo "$name is not set: its secret $file cannot be read" >&2
        exit 1
    fi
    export "$name=$value"
    unset "${name}_FILE"
done
exec "$@"
