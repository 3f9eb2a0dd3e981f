# Counts through a pipeline onto its terminal, until the file `go` is there.
echo $$ >pid.new && mv pid.new pid
(
	i=0
	until [ -e go ]; do
		i=$((i + 1))
		echo "number $i"
		sleep 0.005
	done
	echo "end $i"
) | cat | sed -u 's/^/[/; s/$/]/'
