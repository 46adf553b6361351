# --pids-limit stops a fork bomb without touching the machine.
import_image
equal 'pids.max inside' 20 \
    "$(gantry run --rm --network none --pids-limit 20 "$IMAGE" cat /sys/fs/cgroup/pids.max)"
try gantry run --rm --network none --pids-limit 20 "$IMAGE" \
    sh -c 'i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i + 1)); done; echo all started'
grep -q 'all started' <<<"$output" && fail '60 processes ran under a limit of 20'
grep -qi "can't fork" <<<"$output" || fail "no fork was refused: $output"
