# One command of a session: load the shell state the last one left, run the script, save the state.
#
# Called as: bash --noprofile --norc shell.bash ROOT STATE NEXT SCRIPT GO STATUS PROCESSES DATA_KIB FILE_KIB [PYTHON]
#   ROOT    the workspace          STATE   the state of the last command (may be missing)
#   NEXT    where the new state goes       SCRIPT  what to run       GO  descriptor to wait on
#   STATUS  descriptor to close            limits: 0 for none
#   PYTHON  given when there is a proxy    to lead a port of this machine to it
# Written for bash 3.2 and later. Everything here is named __perdure_*; a script may redefine the
# rest, and does so at its own cost only. Options that make one command stricter (set -e, -u, -x, -n,
# -v) end with the command: they would kill the next one for something it never said.

__perdure_root=$1 __perdure_state=$2 __perdure_next=$3 __perdure_script=$4 __perdure_go=$5
ulimit -c 0 2>/dev/null
ulimit -n 4096 2>/dev/null
[ "$7" -gt 0 ] && ulimit -u "$7" 2>/dev/null
[ "$8" -gt 0 ] && ulimit -d "$8" 2>/dev/null
[ "$9" -gt 0 ] && ulimit -f "$9" 2>/dev/null

# Wait for our owner's word. It comes when somebody will kill us if the owner dies; if it is dead
# already, its end of the pipe is closed and nothing is run.
IFS= read -r -n 1 -u "$__perdure_go" __perdure_word || exit 125
eval "exec $__perdure_go<&- $6<&-"
unset -v __perdure_word __perdure_go

# The way out, for programs that know of proxies. There is no other: nothing here has a route.
if [ -n "${10-}" ]; then
  "${10}" -I -S /run/perdure/forward.py /run/perdure/egress 3128 ||
    printf 'perdure: the way to the network could not be opened\n' >&2
  export http_proxy=http://127.0.0.1:3128 no_proxy=localhost,127.0.0.1,::1
  export https_proxy=$http_proxy all_proxy=$http_proxy HTTP_PROXY=$http_proxy
  export HTTPS_PROXY=$http_proxy ALL_PROXY=$http_proxy NO_PROXY=$no_proxy
  if [ -f /run/perdure/ca.pem ]; then
    export SSL_CERT_FILE=/run/perdure/ca.pem CURL_CA_BUNDLE=/run/perdure/ca.pem
    export REQUESTS_CA_BUNDLE=/run/perdure/ca.pem NODE_EXTRA_CA_CERTS=/run/perdure/ca.pem
    export GIT_SSL_CAINFO=/run/perdure/ca.pem PIP_CERT=/run/perdure/ca.pem
  fi
fi
set --
shopt -s expand_aliases

# What is set before the script had a say, so that only what it changes is kept.
for __perdure_name in $(compgen -v); do
  printf -v "__perdure_was_$__perdure_name" %s "${!__perdure_name}"
done
unset -v __perdure_name

builtin cd -- "$__perdure_root" || exit 125
if [ -f "$__perdure_state" ]; then
  builtin source "$__perdure_state" >/dev/null 2>&1
fi

__perdure_variables() {
  builtin local __perdure_v __perdure_w
  for __perdure_v in $(builtin compgen -v); do
    case $__perdure_v in
      __perdure_* | _ | BASH | BASH_* | BASHOPTS | BASHPID | COMP_* | COLUMNS | DIRSTACK) builtin continue ;;
      EPOCH* | EUID | FUNCNAME | GROUPS | HISTCMD | HISTFILE* | HOSTNAME | HOSTTYPE | IFS) builtin continue ;;
      LINENO | LINES | MACHTYPE | OLDPWD | OPTARG | OPTERR | OPTIND | OSTYPE | PIPESTATUS) builtin continue ;;
      PPID | PWD | RANDOM | REPLY | SECONDS | SHELLOPTS | SHLVL | SRANDOM | UID) builtin continue ;;
    esac
    __perdure_w=__perdure_was_$__perdure_v
    [[ -n ${!__perdure_w+x} && ${!__perdure_v-} == "${!__perdure_w}" ]] && builtin continue
    builtin declare -p "$__perdure_v"
  done
  for __perdure_w in ${!__perdure_was_*}; do
    __perdure_v=${__perdure_w#__perdure_was_}
    case $__perdure_v in BASH*) builtin continue ;; esac
    [[ -n ${!__perdure_v+x} ]] || builtin printf 'unset -v %s\n' "$__perdure_v"
  done
}

__perdure_save() {
  __perdure_saved=1
  builtin trap - ERR DEBUG
  builtin set +eunvxtm +o pipefail +o posix
  # Not in one line with `builtin local`: that would split the value at its spaces.
  builtin local IFS __perdure_here
  IFS=$' \t\n'
  __perdure_here=$PWD
  case $__perdure_here in
    "$__perdure_root") __perdure_here=. ;;
    "$__perdure_root"/*) __perdure_here=./${__perdure_here#"$__perdure_root"/} ;;
  esac
  {
    builtin printf '# perdure shell state 1\n'
    builtin shopt -p
    __perdure_variables
    builtin unset -f __perdure_variables __perdure_save
    builtin declare -f
    builtin declare -xF
    builtin alias -p
    builtin printf 'cd -- %q\n' "$__perdure_here"
    builtin set +o
    builtin printf '# end\n'
  } >|"$__perdure_next" 2>/dev/null
}

builtin set +eunvxtm +o pipefail +o posix
__perdure_saved=
builtin trap '[ -n "$__perdure_saved" ] || __perdure_save' EXIT
BASH_ARGV0=bash
:
builtin source "$__perdure_script"
__perdure_code=$?
__perdure_save
exit "$__perdure_code"
