#!/bin/busybox sh
# The first program of a guest. ADDRESS4, ADDRESS6 and MTU come from the kernel's command line. The guest serves `/bytes` and
# `/cgi-bin/digest` (the SHA-256 of what is posted) by HTTP, and runs the lines that come by its serial console.
set -e
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*.ko; do insmod "$module"; done

ip link set lo up
ip link set eth0 mtu "$MTU" up
ip address add "$ADDRESS4" dev eth0
ip address add "$ADDRESS6" dev eth0
# Until the kernel knows that nobody else has the address.
while ip address show dev eth0 | grep -q tentative; do usleep 50000; done

mkdir -p /srv/cgi-bin
# As text: wget posts what comes before a zero byte.
head -c 4000000 /dev/urandom | base64 >/srv/bytes
cat >/srv/cgi-bin/digest <<'end'
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
head -c "$CONTENT_LENGTH" | sha256sum
end
chmod +x /srv/cgi-bin/digest
httpd -h /srv

dmesg -n 1
stty -echo -onlcr
set +e
echo ready
while read -r line; do
	sh -c "$line" </dev/null 2>&1
	printf '\nended %d\n' $?
done
