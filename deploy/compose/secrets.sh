#!/bin/sh
# Makes a random password for each user of compose.yaml: files in deploy/secrets, and deploy/.env for NATS, which takes its
# passwords from the environment. Passwords that are there already stay.
set -eu
cd "$(dirname "$0")/.."
mkdir -p secrets
chmod 700 secrets
umask 222
for name in mysql-root mysql nats nats-init nats-verify nats-stock nats-stock-letters grafana; do
  file=secrets/$name-password
  # A letter in front: NATS takes what looks like a number for one.
  [ -e "$file" ] || printf 'p%s' "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')" > "$file"
done
umask 077
cat > .env <<END
NATS_BRIDGE_PASSWORD=$(cat secrets/nats-password)
NATS_INIT_PASSWORD=$(cat secrets/nats-init-password)
NATS_VERIFY_PASSWORD=$(cat secrets/nats-verify-password)
NATS_STOCK_PASSWORD=$(cat secrets/nats-stock-password)
NATS_STOCK_LETTERS_PASSWORD=$(cat secrets/nats-stock-letters-password)
END
