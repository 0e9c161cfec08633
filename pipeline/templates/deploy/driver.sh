driver=$!
out_of_time=no
trap 'kill -TERM "$driver"' TERM                  # preempted: Slurm itself queues it again
trap 'out_of_time=yes; kill -TERM "$driver"' USR1 # 120 s before the time limit

code=0
wait "$driver" || code=$?
while kill -0 "$driver" 2>/dev/null; do # a trap ended the wait, not the driver
    code=0
    wait "$driver" || code=$?
done
if [ "$out_of_time" = yes ] && [ "$code" -eq 1 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
