#!/bin/sh
# Creates a CA, and certificates signed by it for a broker and for users.
#
#   certificates.sh FOLDER server NAME...   server.pem, server.key for these host names
#                                           and addresses; also a CA if there is none
#   certificates.sh FOLDER user NAME        NAME.pem, NAME.key, for the user NAME
#
# The CA's key, ca.key, is needed only to create certificates: keep it elsewhere.
set -eu
umask 077
usage() { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 3 ] || usage
folder=$1 kind=$2 name=$3
shift 2
mkdir -p "$folder"
cd "$folder"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

if [ ! -e ca.pem ]; then
    key ca.key
    openssl req -x509 -new -key ca.key -days 3650 -subj "/CN=kaywatch CA" \
        -addext "keyUsage=critical,keyCertSign,cRLSign" -out ca.pem
    chmod 644 ca.pem
fi

case $kind in
server)
    file=server usage=serverAuth names=
    for each; do
        case $each in
        *[!0-9.]*) case $each in *:*) each=IP:$each ;; *) each=DNS:$each ;; esac ;;
        *) each=IP:$each ;;
        esac
        names=$names${names:+,}$each
    done
    extra="subjectAltName=$names"
    ;;
user)
    file=$name usage=clientAuth
    extra="subjectKeyIdentifier=hash"
    ;;
*) usage ;;
esac

key "$file.key"
openssl req -new -key "$file.key" -subj "/CN=$name" -out "$file.csr"
printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n' >"$file.ext"
printf 'extendedKeyUsage=%s\n%s\n' "$usage" "$extra" >>"$file.ext"
openssl x509 -req -in "$file.csr" -CA ca.pem -CAkey ca.key -days 825 \
    -set_serial "0x$(openssl rand -hex 16)" -extfile "$file.ext" -out "$file.pem" 2>/dev/null
chmod 644 "$file.pem"
rm "$file.csr" "$file.ext"
