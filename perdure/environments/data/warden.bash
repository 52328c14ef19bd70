# Kills what its owner left, when the owner dies. Outside of every sandbox, so that nothing in one
# can reach it. Reads from standard input, which only the owner holds open:
#   + PID START   this process must not outlive the owner; START is its start time, which together
#                 with PID names it for ever
#   - PID         it is dead
declare -A held
trap '' HUP INT TERM QUIT
while read -r sign pid start; do
  case $sign in
    +) held[$pid]=$start ;;
    -) unset "held[$pid]" ;;
  esac
done
for pid in "${!held[@]}"; do
  IFS= read -r line <"/proc/$pid/stat" || continue
  set -- ${line##*) }
  [ "${20}" = "${held[$pid]}" ] && kill -KILL "$pid"
done 2>/dev/null
