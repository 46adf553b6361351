# A checkpoint in two steps: most of the memory is written while the container goes on, and of
# what it has not touched since, the second step has a reference only. Its streams are a pipe
# and a file of the host; it is restored to others, in the foreground.
make_bundle
make_images

# In one line: configure takes the next one for another argument. Counting must not touch the
# memory, as an expansion does, nor fork, for a child has it all anew.
configure '{}' sh -c 'memory=$(head -c 1500000 /dev/urandom | base64); trap "echo 0 \${#memory}; exit 7" TERM; echo 0 ${#memory}; n=0; while :; do n=$((n + 1)); case $n in *000) echo $n ;; esac; done'
gantry-runtime run -b "$BUNDLE" two </dev/null 2>"$IMAGES/err" | cat >"$DATA/now" &
now() { tail -n 1 "$DATA/now"; }
size_of_memory() { sed -n 's/^0 //p' "$DATA/now"; }
counts_on 3
size=$(size_of_memory)
by_criu checkpoint --pre-dump --image-path "$IMAGES/first" --work-path "$IMAGES/w4" two
equal 'status after a pre-dump' running "$(status_of two)"
counts_on "$(now)"
by_criu checkpoint --parent-path ../first --image-path "$IMAGES/second" \
    --work-path "$IMAGES/w5" two
wait
[ -L "$IMAGES/second/parent" ] || fail 'the second images do not name the first'
pages() { cat "$IMAGES/$1"/pages-*.img | wc -c; }
[ "$(pages first)" -gt 2000000 ] || fail "the first step wrote $(pages first) bytes"
[ "$(pages second)" -lt $(($(pages first) / 2)) ] ||
    fail "the steps wrote $(pages first) and $(pages second) bytes"
last=$(now)
(
    code=0
    gantry-runtime restore -b "$BUNDLE" --image-path "$IMAGES/second" \
        --work-path "$IMAGES/w6" two </dev/null 2>"$IMAGES/err" || code=$?
    echo "$code" >"$IMAGES/code"
) | cat >"$DATA/now" &
counts_on "$last"
gantry-runtime kill two TERM
wait
equal 'exit status of restore' 7 "$(cat "$IMAGES/code")"
equal 'its memory' "$size" "$(size_of_memory)"
try gantry-runtime state two
equal 'exit status of state after the end' 1 "$status"

# What cannot be brought back leaves nothing.
try gantry-runtime restore -d -b "$BUNDLE" --image-path "$IMAGES/none" three
equal 'exit status of restore without images' 1 "$status"
try gantry-runtime state three
equal 'exit status of state after that' 1 "$status"
[ ! -e "$GROUP" ] || fail 'the group is left after a failed restore'
