# Makes .venv in the top of the checkout: sourced by the scripts beside it, with the top as the working directory.
#
#     venvReady            castd as it is here, editable, and what it needs
#     venvReady test       with the extra "test" of pyproject.toml; so for any other extra
#
# The Python of the system is used, never changed: nothing is installed outside .venv, with or without root.
# Debian's python3 comes without pip, without ensurepip and with a refusal to install anything (PEP 668);
# so .venv gets its pip from the first of these that works: ensurepip, the system's own pip (22.3 or later),
# the pip inside Debian's package python3-pip-whl, fetched by apt, which checks its signature, and unpacked in .venv.
#
# A run that was interrupted leaves .venv marked as unfinished, and the next one begins anew.  A run that failed, for
# want of a network, leaves a .venv in order, and the next one goes on.

say() { printf 'castd: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

# Prints the first Python that is new enough; $PYTHON is asked before all others.
findPython() {
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    say "needs Python 3.11 or later with its module venv, and found none."
    say "On Debian 12 or later: apt-get install python3.  Elsewhere: PYTHON=/path/to/python sh $0"
    return 1
}

# What makes a finished .venv out of date: other requirements, another place, another extra.
stampOf() {
    { pwd -P && printf '%s\n' "$1" && cat pyproject.toml scripts/venv.sh; } | sha256sum | cut -d ' ' -f 1
}

# A folder that was moved keeps the old place in the first line of its commands, so the place counts as well.
venvWorks() {
    [ ! -e .venv/unfinished ] && [ "$(cat .venv/place 2>/dev/null)" = "$(pwd -P)" ] &&
        .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
        .venv/bin/python -m pip --version >/dev/null 2>&1
}

# apt with its lists and its cache in the folder $1: that needs no root.
aptIn() {
    own=$1
    shift
    mkdir -p "$own/state/lists/partial" "$own/cache/archives/partial"
    apt-get -qq -o Dir::State="$own/state" -o Dir::State::status=/var/lib/dpkg/status \
        -o Dir::Cache="$own/cache" -o APT::Sandbox::User=root "$@"
}

pipFromDebian() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    top=$(pwd -P)
    mkdir -p .venv/debian && cd .venv/debian || return 1
    apt-get -qq -o APT::Sandbox::User=root download python3-pip-whl 2>/dev/null ||
        { aptIn "$top/.venv/debian" update && aptIn "$top/.venv/debian" download python3-pip-whl; } ||
        { cd "$top" && return 1; }
    for package in python3-pip-whl_*.deb; do dpkg-deb -x "$package" .; done
    cd "$top" || return 1
    for wheel in .venv/debian/usr/share/python-wheels/pip-*.whl; do
        PYTHONPATH="$top/$wheel" .venv/bin/python -m pip install -q pip || return 1
    done
    rm -rf .venv/debian
}

makeVenv() {
    python=$(findPython) || return 1
    say "making .venv with $("$python" --version 2>&1) ($python)"
    rm -rf .venv
    if "$python" -c 'import ensurepip' 2>/dev/null && "$python" -m venv .venv >/dev/null 2>&1; then
        :
    else
        "$python" -m venv --clear --without-pip .venv || return 1
        "$python" -m pip --python .venv/bin/python install -q pip 2>/dev/null || pipFromDebian || {
            say "could not get pip into .venv: $python has no ensurepip, no pip of 22.3 or later,"
            say "and apt did not bring python3-pip-whl.  On Debian, apt-get install python3-venv is enough."
            return 1
        }
    fi
    pwd -P >.venv/place
}

# What may let the native loop be built where it was not, or make it out of date.
nativeStamp() {
    headers=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))') || :
    {
        cat hatch_build.py castd/native/_loop.pyx
        printf '%s\n' "${CC-}" "${CFLAGS-}" "${LDFLAGS-}"
        ls castd/native/*.so "$headers/Python.h" 2>/dev/null || :
        for each in cc gcc clang; do command -v "$each" || :; done
    } | sha256sum | cut -d ' ' -f 1
}

# The native loop is optional: hatch_build.py says in one line why it cannot be built, once.  It is tried again when
# something has changed, or if it was the network that failed.
nativeReady() {
    [ "${CASTD_NATIVE-}" != 0 ] || return 0
    [ "$(cat .venv/ready-native 2>/dev/null)" != "$(nativeStamp)" ] || return 0
    rm -f .venv/ready-native
    tried=0
    .venv/bin/python hatch_build.py --install-cython || tried=$?
    [ "$tried" -gt 1 ] || nativeStamp >.venv/ready-native
}

venvReady() {
    extra=${1-}
    PIP_ROOT_USER_ACTION=ignore
    PIP_DISABLE_PIP_VERSION_CHECK=1
    unset PYTHONHOME PYTHONPATH
    export PIP_ROOT_USER_ACTION PIP_DISABLE_PIP_VERSION_CHECK

    # Two scripts started together wait for each other; the lock ends with the script, or below.
    exec 9<pyproject.toml
    if command -v flock >/dev/null; then flock 9; fi

    stamp=.venv/ready${extra:+-$extra}
    if [ "$(cat "$stamp" 2>/dev/null)" != "$(stampOf "$extra")" ] || ! venvWorks; then
        venvWorks || makeVenv || die "no .venv could be made"
        say "installing castd${extra:+ and what its extra \"$extra\" asks for} into .venv"
        : >.venv/unfinished
        rm -f "$stamp"
        # The native loop of a checkout is built below, so nothing is fetched to build it here.
        CASTD_NATIVE=0 .venv/bin/python -m pip install -q --editable ".${extra:+[$extra]}" || {
            rm -f .venv/unfinished
            die "pip could not install into .venv; what it said stands above.  Run the same command again to go on"
        }
        stampOf "$extra" >"$stamp"
        rm -f .venv/unfinished
    fi
    nativeReady
    exec 9<&-
}
