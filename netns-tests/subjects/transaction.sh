# Feeds sqlite3: ROWS rows in one transaction, committed once the file `go` is there.
# usage: transaction.sh ROWS
rows=$1
(
	echo 'CREATE TABLE t (number INTEGER PRIMARY KEY, text TEXT);'
	echo 'BEGIN IMMEDIATE;'
	i=0
	while [ $i -lt "$rows" ]; do
		i=$((i + 1))
		echo "INSERT INTO t VALUES($i, 'row $i');"
	done
	echo '.once inserted'
	echo 'SELECT count(*) FROM t;'
	until [ -e go ]; do sleep 0.01; done
	echo 'COMMIT;'
) | sqlite3 -batch db
