# A published port on the kernel's older nf_tables, by IPv4 and IPv6 loopback.
import_image
gantry run -d --name web -p 8080:80 "$IMAGE" \
    sh -c 'echo served >/var/www/index.html && httpd -f -p 80 -h /var/www' >/dev/null
for address in 127.0.0.1 '[::1]'; do
    answer=
    for _ in $(seq 50); do
        answer=$(curl --silent --max-time 2 "http://$address:8080/") && break
        sleep 0.1
    done
    equal "the answer on $address" served "$answer"
done
try gantry run -d --name second -p 8080:80 "$IMAGE" sleep 1000
equal 'exit status for a taken port' 125 "$status"
