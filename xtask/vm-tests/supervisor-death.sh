# Either process of the supervisor dies; the container, its log and its exit
# status do not notice. What happens when a container's parents die one after
# the other is another matter on this kernel: see docs/gaps.md.
import_image
parent_of() {
    awk '$1 == "PPid:" { print $2 }' "/proc/$1/status"
}
for victim in inner outer; do
    gantry run -d --network none --name "$victim" "$IMAGE" \
        sh -c 'trap "exit 7" TERM; i=0; while :; do echo line $i; i=$((i + 1)); sleep 0.1; done' >/dev/null
    process=$(pid_of "$victim")
    inner=$(parent_of "$process")
    outer=$(parent_of "$inner")
    case $victim in
    inner) kill -9 "$inner" ;;
    outer) kill -9 "$outer" ;;
    esac
    sleep 0.5
    equal "the process after the death of the $victim one" "$process" "$(pid_of "$victim")"
    count=$(gantry logs "$victim" | wc -l)
    sleep 0.5
    [ "$(gantry logs "$victim" | wc -l)" -gt "$count" ] || fail "the log stands still ($victim)"
    gantry logs "$victim" | awk '$2 != NR - 1 { exit 1 }' ||
        fail "the log has lost or doubled a line ($victim)"
    gantry stop "$victim" >/dev/null
    equal "exit code ($victim)" 7 "$(gantry inspect --format '{{.State.ExitCode}}' "$victim")"
    gantry rm "$victim" >/dev/null
done
