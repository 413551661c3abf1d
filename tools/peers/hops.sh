# Sets "hops" to as many next hops as `pushplane bench forward` has with these options: sourced by who tells other
# forwarders of them.
hops=16
for ((at = 1; at <= $#; at++)); do
  case ${!at} in
    --hops) next=$((at + 1)); hops=${!next:?--hops needs a number} ;;
    --hops=*) hops=${!at#--hops=} ;;
  esac
done
case $hops in
  *[!0-9]* | '') echo "--hops: expected a number, found \"$hops\"" >&2; exit 2 ;;
esac
