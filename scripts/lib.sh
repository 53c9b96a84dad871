# What the scripts share; sourced, never run.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cache=${LMT2_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lmt2}
kafka=4.1.1
mkdir -p "$cache"

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Installs Debian packages where that is possible without asking; RUNLEVEL=1 keeps their daemons from starting.
apt_install() {
    command -v apt-get >/dev/null || die "$* missing, and there is no apt-get here: install by hand"
    [ "$(id -u)" = 0 ] || die "$* missing: run 'sudo apt-get install $*'"
    say "installing $* with apt-get"
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    apt-get -qq update || true # a source that fails must not stop packages that others have
    apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

# Unpacks one program of a Debian package into the cache, without root and without starting anything.
apt_program() { # apt_program PACKAGE PATH
    command -v apt-get >/dev/null || die "$(basename "$2") missing, and there is no apt-get here: install by hand"
    local scratch
    scratch=$(mktemp -d)
    say "fetching $(basename "$2") from Debian's package $1"
    [ "$(id -u)" != 0 ] || apt-get -qq update || true
    (cd "$scratch" && apt-get -qq -o APT::Sandbox::User=root download "$1" && dpkg -x ./*.deb unpacked)
    mkdir -p "$cache/bin"
    mv "$scratch/unpacked/$2" "$cache/bin/"
    rm -r "$scratch"
}
