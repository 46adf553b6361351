# A container in a network namespace that somebody else has made, as Podman has it, and whose
# memory goes to another machine's criu. It is paused before, as containerd does.
make_bundle
make_images
ip netns add apart
trap 'delete_bundle; ip netns delete apart; umount /run/netns; rm -rf "$DATA" "$IMAGES"' EXIT
configure '{}' sh -c 'n=0; while :; do n=$((n + 1)); echo $n; sleep 0.05; done'
jq '(.linux.namespaces[] | select(.type == "network")).path = "/run/netns/apart"' \
    <"$BUNDLE/config.json" >"$BUNDLE/config.new"
mv "$BUNDLE/config.new" "$BUNDLE/config.json"
now() { tail -n 1 "$DATA/now"; }
namespace_of() { readlink "/proc/$(gantry-runtime state "$1" | jq .pid)/ns/net"; }

gantry-runtime run -d -b "$BUNDLE" one >"$DATA/now" 2>"$IMAGES/err" </dev/null
counts_on 3
before=$(namespace_of one)
gantry-runtime pause one
mkdir "$IMAGES/there"
# It listens when it has gone to the background, and ends with the dump.
criu page-server --images-dir "$IMAGES/there" --address 127.0.0.1 --port 2727 --daemon
by_criu checkpoint --page-server 127.0.0.1:2727 --image-path "$IMAGES/here" \
    --work-path "$IMAGES/w1" one
ls "$IMAGES/there"/pages-*.img >/dev/null || fail 'no memory came to the other machine'
! ls "$IMAGES/here"/pages-*.img 2>/dev/null || fail 'memory was written here too'
cp "$IMAGES"/there/*.img "$IMAGES/here"

# A file that it writes to must not have become shorter.
last=$(now)
gantry-runtime restore -d -b "$BUNDLE" --image-path "$IMAGES/here" --work-path "$IMAGES/w2" \
    one >>"$DATA/now" 2>>"$IMAGES/err" </dev/null || fail "restore: $(cat "$IMAGES/err")"
counts_on "$last"
equal 'status of the restored' running "$(status_of one)"
equal 'network namespace' "$before" "$(namespace_of one)"
end_bundle one
