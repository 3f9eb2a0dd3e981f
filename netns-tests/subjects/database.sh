# PostgreSQL and two clients: one in the middle of a transaction until the file `go` is there, one
# that sleeps in the server. The files are in the current directory, the socket in SOCKETS.
# usage: database.sh PROGRAMS ROWS SOCKETS
PATH=$1:$PATH rows=$2
export PGHOST=$3 PGDATABASE=postgres
initdb -D data --no-sync --auth=trust --locale=C >initdb.log 2>&1 || exit 3
postgres -D data -k "$PGHOST" -c listen_addresses= -c fsync=off >server.log 2>&1 &
server=$!
until psql -qc 'CREATE TABLE t (number INTEGER PRIMARY KEY)' >/dev/null 2>&1; do
	kill -0 $server || exit 3
	sleep 0.05
done
psql -qAtc "SELECT pg_sleep(2); SELECT 'slept'" >sleeper &
sleeper=$!
(
	echo 'BEGIN;'
	echo "INSERT INTO t SELECT generate_series(1, $rows);"
	echo '\o inserted'
	echo 'SELECT count(*) FROM t;'
	echo '\o'
	until [ -e go ]; do sleep 0.01; done
	echo 'COMMIT;'
) | psql -qAt || exit 1
wait $sleeper && [ "$(tail -n 1 sleeper)" = slept ] || exit 1
kill -TERM $server
wait $server
