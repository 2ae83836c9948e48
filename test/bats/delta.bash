# shellcheck shell=bash
# What the tests of deltas make images of.

# noise BYTES SEED: what does not compress, and is the same each time.
noise() { openssl enc -aes-128-ctr -K "$(printf '%032x' "$2")" -iv 0 -in /dev/zero 2>/dev/null | head -c "$1" || true; }

# pack NAME: the folder $T/images/NAME as a layer, which is the same each time.
pack() { tar -cf "$T/images/$1.tar" -C "$T/images/$1" --sort=name --mtime=@1700000000 --owner=0 --group=0 --numeric-owner .; }
