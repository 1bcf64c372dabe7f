#!/bin/sh
# cmd.exe /d /c .\config.cmd ARGUMENTS 2>&1: the stand-in of config.cmd is a script for sh.
shift 3
for last; do :; done
[ "$last" = '2>&1' ] || exit 99
n=$#
while [ "$n" -gt 1 ]; do
  set -- "$@" "$1"
  shift
  n=$((n - 1))
done
shift
exec sh ./config.cmd "$@" 2>&1
