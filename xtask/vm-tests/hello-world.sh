# The embedded image runs where nothing but cgroup v2 and Linux 6.1 is there.
try gantry run --rm hello-world
equal 'exit status' 0 "$status"
grep -qi hello <<<"$output" || fail "no greeting in: $output"
equal 'containers left' '' "$(gantry ps --all --quiet)"
