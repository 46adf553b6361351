# Either process of the supervisor dies; the container, its log and its exit
# status do not notice.
import_image
gantry run -d --network none --name survivor "$IMAGE" \
    sh -c 'trap "exit 7" TERM; i=0; while :; do echo line $i; i=$((i + 1)); sleep 0.2; done' >/dev/null
before=$(pid_of survivor)
for _ in 1 2 3; do
    parent=$(awk '$1 == "PPid:" { print $2 }' "/proc/$before/status")
    kill -9 "$parent"
    sleep 1
    outer=$(awk '$1 == "PPid:" { print $2 }' "/proc/$(awk '$1 == "PPid:" { print $2 }' "/proc/$before/status")/status")
    [ "$outer" -le 1 ] || kill -9 "$outer"
    sleep 1
done
equal 'the process' "$before" "$(pid_of survivor)"
count=$(gantry logs survivor | wc -l)
sleep 1
[ "$(gantry logs survivor | wc -l)" -gt "$count" ] || fail 'the log stands still'
gantry logs survivor | awk '$2 != NR - 1 { exit 1 }' || fail 'the log has lost or doubled a line'
gantry stop survivor >/dev/null
equal 'exit code' 7 "$(gantry inspect --format '{{.State.ExitCode}}' survivor)"
