#!/usr/bin/env bash
# Runs all tests. A target that fails is run once more: the tests judge running programs on machines
# that others use too. What fails twice fails; what passes then is a bug of the test or of qmig all
# the same, and is told at the very end as FLAKY, to be filed.
set -uo pipefail
cargo=${CARGO:-cargo}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Somebody's background job may ignore Ctrl-C; what the tests move would inherit that.
tests() {
	env --default-signal=INT,QUIT "$cargo" test "$@"
}

tests --workspace --no-fail-fast "$@" 2>&1 | tee "$log"
[ "${PIPESTATUS[0]}" = 0 ] && exit 0

# Cargo ends with the targets that failed, a line each:     `-p netns-tests --test lazy`
mapfile -t targets < <(sed -n 's/^    `\(-p .*\)`$/\1/p' "$log")
[ ${#targets[@]} -gt 0 ] || exit 1 # it did not build
[ ${#targets[@]} -le 3 ] || exit 1 # that is no accident
failed=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | tr '\n' ' ')
for target in "${targets[@]}"; do
	echo "once more: cargo test $target"
	# shellcheck disable=SC2086 # the words of a target are arguments
	tests $target --no-fail-fast "$@" || exit 1
done
echo "FLAKY, failed and then passed: $failed"
