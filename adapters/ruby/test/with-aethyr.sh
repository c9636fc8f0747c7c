#!/bin/sh
# Owns the run of this gem with the real Aethyr and the real Sequent, whose sources are no part of this project.
#
#   test/with-aethyr.sh AETHYR SEQUENT [FOLDER…]
#
# AETHYR, SEQUENT: folders with their sources. FOLDER…: more folders for Ruby's load path, for what is not installed as
# a gem: postgresql_cursor/lib, gdbm/ext/gdbm (built). Ruby needs: activerecord, oj, pg, bcrypt, parallel, thread_safe,
# tty-prompt, concurrent-ruby, wisper, eventmachine, gdbm, grpc. Sequent 8.2 needs Ruby 3.2 or later.
# The program of the service is AETHYR_EVENT_STORE, or aethyr-event-store in PATH. IMMUDB: the program immudb, for the
# outage of ImmuDB. PARTS: which parts to run (game migration features immudb).
set -eu
[ $# -ge 2 ] || { sed -n '2,11p' "$0"; exit 64; }
here=$(cd "$(dirname "$0")" && pwd)
aethyr=$(cd "$1" && pwd)
sequent=$(cd "$2" && pwd)
shift 2
path="-I $here/../lib -I $aethyr/lib -I $sequent/lib"
for folder in "$@"; do path="$path -I $(cd "$folder" && pwd)"; done
AETHYR_SOURCES=$aethyr SEQUENT_SOURCES=$sequent RUBY_PATHS=$path exec ruby -I "$here/../lib" "$here/with_aethyr/run.rb"
