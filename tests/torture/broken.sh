#!/usr/bin/env bash
# The test of the torture test: breaks the service on purpose, one way at a time, and demands that the
# torture test finds it within 60 seconds.
#
#     tests/torture/broken.sh            all of them
#     tests/torture/broken.sh NAME...    some
#
# Works on a copy; the target folder is the copy's own (CARGO_TARGET_DIR is respected).
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

# change FILE PYTHON-EXPRESSION: of the text `s`; it must change something.
change() {
    python3 - "$1" "$2" <<'PY'
import sys
path, expression = sys.argv[1:]
s = open(path).read()
changed = eval(expression)
assert changed != s, f"{path} is not what this script knows: {expression}"
open(path, "w").write(changed)
PY
}

acknowledge_before_the_sync() {
    change src/log.rs 's.replace("and_then(|file| file.sync_data());", "map(|_| ());")'
}

forget_the_forwarded_position() {
    change src/forwarder/claim.rs 's.replace("Ok((reached, last_event))", "let _ = reached;\n        Ok((Reached::START, last_event))")'
}

skip_the_duplicate_check_inside_a_group() {
    change src/sequencer/judge.rs 's.replace("find(|event| in_group(event).is_some())", "find(|event| in_group(event).is_some() && false)")'
}

take_a_failed_sync_for_not_written() {
    change src/sequencer.rs 's.replace("Self::Write(WriteError::Unknown(_)) | Self::Index(_) => StoreError::OutcomeUnknown,", "Self::Write(WriteError::Unknown(_)) | Self::Index(_) => StoreError::Unavailable(Unavailable::NotWritten),")'
}

take_a_time_out_for_not_written() {
    change src/grpc/gate.rs 's.replace("Err(_) => Err(status::deadline_exceeded()),", "Err(_) => Err(status::of_error(StoreError::Unavailable(crate::store::Unavailable::NotWritten))),")'
}

leave_a_segment_without_a_durable_name() {
    change src/log/segment.rs 's.replace("path.parent().map_or(Ok(()), sync_entries)", "path.parent().map_or(Ok(()), |_| Ok(()))")'
}

leave_out_a_precondition() {
    change src/forwarder.rs 's.replace("vec![Precondition::KeyMustExist(key.clone()), Precondition::KeyNotModifiedAfterTx { key, tx }]", "let _ = tx;\n    vec![Precondition::KeyMustExist(key)]")'
}

refuse_a_resend_where_new_events_are() {
    change src/store.rs 's.replace("self.standing.admit_resend()?;", "self.admit_write()?;")'
}

let_recorded_times_follow_the_clock() {
    change src/sequencer/group.rs 's.replace("Timestamp::now().max(entries.complete().recorded_at)", "Timestamp::now()")'
}

publish_the_tip_before_what_is_below_it() {
    change src/sequencer/group.rs 's.replace("Ok(self.index.add(entries, published)?)", "published(); std::thread::sleep(std::time::Duration::from_millis(5)); Ok(self.index.add(entries, || ())?)")'
}

go_on_without_an_index() {
    change src/server/failure.rs 's.replace("PoisonedBy::Index => ServerError::IndexFailed,", "PoisonedBy::Index => std::future::pending().await,").replace("() = index_failed => ServerError::IndexFailed,", "() = async { index_failed.await; std::future::pending().await } => ServerError::IndexFailed,")'
}

say_that_reads_fail() {
    change src/server/health.rs 's.replace("            reads,\n", "            reads: false,\n")'
}

ways=("$@")
if ((${#ways[@]} == 0)); then
    ways=(acknowledge_before_the_sync forget_the_forwarded_position
        skip_the_duplicate_check_inside_a_group take_a_time_out_for_not_written
        take_a_failed_sync_for_not_written leave_a_segment_without_a_durable_name
        leave_out_a_precondition refuse_a_resend_where_new_events_are
        let_recorded_times_follow_the_clock publish_the_tip_before_what_is_below_it
        go_on_without_an_index say_that_reads_fail)
fi
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$work/target}
for way in "${ways[@]}"; do
    rm -rf "$work/copy"
    mkdir "$work/copy"
    git ls-files -z | xargs -0 cp --parents -t "$work/copy"
    (
        cd "$work/copy"
        "$way"
        cargo test --quiet --locked --test torture --no-run
    )
    caught=
    # Several seeds, in 60 seconds of faults together.
    for seed in 1 2 3; do
        if ! (cd "$work/copy" && timeout 300 cargo test --quiet --locked --test torture -- \
            --seed "$seed" --seconds 20 >"$work/log" 2>&1); then
            caught=$seed
            break
        fi
    done
    if [[ -n $caught ]]; then
        passed=$((passed + 1))
        echo "PASS: $way is caught (seed $caught): $(grep -m1 -E '^[a-z ]+: |panicked' "$work/log" | cut -c1-160)"
    else
        failed=$((failed + 1))
        echo "FAIL: $way is not caught"
    fi
done
echo "$passed passed, $failed failed"
((failed == 0))
