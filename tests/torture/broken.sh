#!/usr/bin/env bash
# The test of the torture test: breaks the service on purpose, one way at a time. The torture test
# has to detect each way within 60 seconds of faults, and for the right reason. Ways that none of
# its faults reveals have a story in tests/it that has to fail. The unchanged service comes first,
# and has to pass.
#
#     tests/torture/broken.sh            all ways
#     tests/torture/broken.sh NAME...    only these ways
#     tests/torture/broken.sh --check    checks, without a build, that each way changes the source
#
# It works on a copy below the target directory (CARGO_TARGET_DIR is respected). All ways share one
# target directory there.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(realpath -m "${CARGO_TARGET_DIR:-target}")/broken
copy=$work/copy
log=$work/log
export CARGO_TARGET_DIR=$work/target
mkdir -p "$copy"
passed=0
failed=0

# change FILE PYTHON-EXPRESSION: replaces the file's text `s` by the expression, which must differ.
change() {
    python3 - "$1" "$2" <<'PY' || exit 1
import sys
path, expression = sys.argv[1:]
s = open(path).read()
changed = eval(expression)
assert changed != s, f"{path} is not what this script knows: {expression}"
open(path, "w").write(changed)
PY
}

# replace FILE FROM TO...: replaces each FROM, which must occur at least once, by its TO.
replace() {
    python3 - "$@" <<'PY' || exit 1
import sys
path, *pairs = sys.argv[1:]
s = open(path).read()
for old, new in zip(pairs[::2], pairs[1::2]):
    assert old in s, f"{path} is not what this script knows: {old}"
    s = s.replace(old, new)
open(path, "w").write(s)
PY
}

# Makes the copy equal to the repository. Unchanged files keep their times, so that little is
# rebuilt.
renew_copy() {
    local file
    while IFS= read -r -d '' file; do
        if ! cmp -s "$file" "$copy/$file"; then
            mkdir -p "$copy/$(dirname "$file")"
            cp "$file" "$copy/$file"
        fi
    done < <(git ls-files -z)
}

# For each way: the kinds of violations that may reveal it (the text before the colon), and the
# fault that happens more often, if only one fault reveals it. Or the story that reveals it, and
# what its failure says.
declare -A shows=() mostly=() story=()

nothing() { :; }

shows[acknowledge_before_the_sync]='lost|subscription|load shows less|order shows less|stored behind what was shown'
acknowledge_before_the_sync() {
    change src/log.rs 's.replace("and_then(|file| file.sync_data());", "map(|_| ());")'
}

shows[forget_the_forwarded_position]='ImmuDB|migration'
forget_the_forwarded_position() {
    change src/replication/forwarder/claim.rs 's.replace("Ok((reached, last_event))", "let _ = reached;\n        Ok((LogPoint::START, last_event))")'
}

shows[skip_the_duplicate_check_inside_a_group]='doubled'
skip_the_duplicate_check_inside_a_group() {
    change src/sequencer/group.rs 's.replace("find(|event| in_group(event).is_some())", "find(|event| in_group(event).is_some() && false)")'
}

shows[take_a_failed_sync_for_not_written]='refused and stored'
mostly[take_a_failed_sync_for_not_written]='sync fails'
take_a_failed_sync_for_not_written() {
    change src/sequencer/group_error.rs 's.replace("Self::Write(WriteError::Unknown(_)) => StoreError::OutcomeUnknown,", "Self::Write(WriteError::Unknown(_)) => StoreError::Unavailable(Unavailable::NotWritten),")'
}

# Clients also vanish at their deadlines.
shows[take_a_time_out_for_not_written]='refused and stored'
take_a_time_out_for_not_written() {
    change src/grpc/transport/concurrency.rs 's.replace("done.unwrap_or_else(|_| Err(status::deadline_exceeded()))", "done.unwrap_or_else(|_| Err(status::of_error(crate::error::StoreError::Unavailable(crate::error::Unavailable::NotWritten))))")'
}

shows[leave_a_segment_without_a_durable_name]='lost'
mostly[leave_a_segment_without_a_durable_name]='power cut'
leave_a_segment_without_a_durable_name() {
    replace src/log/segment.rs 'path.parent().map_or(Ok(()), sync_entries)' 'path.parent().map_or(Ok(()), |_| Ok(()))' \
        '        folder.sync_all()
' '        let _ = folder;
        Ok(())
'
}

shows[leave_out_a_precondition]='second writer|ImmuDB|migration'
mostly[leave_out_a_precondition]='deposed writer'
leave_out_a_precondition() {
    change src/replication/forwarder.rs 's.replace("vec![Precondition::KeyMustExist(key.clone()), Precondition::KeyNotModifiedAfterTx { key, tx }]", "let _ = tx;\n    vec![Precondition::KeyMustExist(key)]")'
}

# Two transactions in flight.
shows[send_the_second_without_the_first]='ImmuDB|migration'
mostly[send_the_second_without_the_first]='first request cancelled, the next late'
send_the_second_without_the_first() {
    replace src/replication/forwarder/in_flight.rs 'conditions.extend(self.last_event' 'conditions.extend(self.last_event.as_ref().filter(|_| !self.is_in_flight)'
    replace src/replication/forwarder/in_flight.rs '.clone().map(Precondition::KeyMustExist)' '.cloned().map(Precondition::KeyMustExist)'
}

# Not one of all ways: detecting it takes longer than 60 seconds. tests/it/two_in_flight.rs detects
# it at once.
shows[send_the_second_behind_its_repetition]='ImmuDB|migration'
mostly[send_the_second_behind_its_repetition]='first request cancelled, the next late'
send_the_second_behind_its_repetition() {
    replace src/replication/forwarder/in_flight.rs 'conditions.extend(batch.first_event.clone().map(Precondition::KeyMustNotExist));' ''
}

shows[refuse_a_resend_where_new_events_are]='resend refused'
refuse_a_resend_where_new_events_are() {
    change src/store.rs 's.replace("self.replication.admit_retry(self.tip())?;", "self.admit_write()?;")'
}

# The clock is years off.
shows[let_recorded_times_follow_the_clock]='time runs backwards'
let_recorded_times_follow_the_clock() {
    replace src/sequencer/group.rs 'time.unwrap_or(newest).max(newest);' 'time.unwrap_or(newest);'
}

shows[publish_the_tip_before_what_is_below_it]='stale|load shows less|stats|order shows less|list|conflict tells less|figures of two moments'
publish_the_tip_before_what_is_below_it() {
    change src/sequencer/worker.rs 's.replace("self.index.add(entries, published);", "published(); std::thread::sleep(std::time::Duration::from_millis(5)); self.index.add(entries, || ());")'
}

# Events that the index could not write to a file.
shows[lose_what_is_not_in_a_file]='lost|load shows less|stats|list|stale|conflict tells less|doubled'
mostly[lose_what_is_not_in_a_file]='index fails'
lose_what_is_not_in_a_file() {
    replace src/index/upkeep.rs 'Err(error) => return self.not_written(&error),' 'Err(error) => {
                    self.layers_mut().replace(slice::from_ref(layer), &[]);
                    return self.not_written(&error);
                }'
}

shows[say_that_reads_fail]='health'
say_that_reads_fail() {
    change src/server/health.rs 's.replace("            reads,\n", "            reads: false,\n")'
}

# Late answers.
shows[count_no_slow_commits]='answers late by [^:]*'
mostly[count_no_slow_commits]=--late
count_no_slow_commits() {
    replace src/replication/state.rs 'self.recent.push_back(commit.took > self.slow_above());' 'self.recent.push_back(false);'
}

# Too few file descriptors.
shows[accept_nobody_after_an_error]='the service'
mostly[accept_nobody_after_an_error]='no more files'
accept_nobody_after_an_error() {
    replace src/grpc/transport/accept.rs 'tokio::time::sleep(PAUSE).await;' 'let _ = PAUSE;
                        std::future::pending::<()>().await;'
}

# A full disk, without a restart of the service.
shows[reject_writes_after_a_full_disk]='the service'
mostly[reject_writes_after_a_full_disk]='disk full, and nobody helps'
reject_writes_after_a_full_disk() {
    replace src/sequencer/step.rs 'settings.disk_is_full();' 'settings.disk_is_full() || WAS_FULL.get().is_some();'
    replace src/sequencer/worker.rs 'if let Err(error) = &written {
' 'if let Err(error) = &written {
            let _ = super::step::WAS_FULL.set(());
'
    printf '%s\n' 'pub(super) static WAS_FULL: std::sync::OnceLock<()> = std::sync::OnceLock::new();' >>src/sequencer/step.rs
}

# Removed lock files.
shows[lock_the_file_within_alone]='the service'
mostly[lock_the_file_within_alone]='locks removed'
lock_the_file_within_alone() {
    replace src/log/lock.rs 'if let Some(path) = beside(folder) {' 'if let Some(path) = beside(folder).filter(|_| false) {' \
        'let opened = File::open(folder).map_err(fs::TryLockError::Error)?;' 'let opened = File::open(folder).map_err(fs::TryLockError::Error)?;
        if opened.metadata().is_ok() {
            return Ok(Self(None));
        }'
}

# A shared index.
shows[take_the_index_of_another]='the service'
mostly[take_the_index_of_another]='index shared'
take_the_index_of_another() {
    replace src/log/owner.rs 'LockedFolder::lock_if_there(folder)' 'LockedFolder::lock_if_there(&folder.join("none"))' \
        'Err(fs::TryLockError::WouldBlock) => return Err(in_use()),' 'Err(fs::TryLockError::WouldBlock) => {}' \
        'if owner != log => {' 'if false && owner != log => {'
}

# An older log that was restored.
shows[serve_what_may_be_an_older_log]='stale|load shows less|stats|order shows less|list|resend refused|subscription'
mostly[serve_what_may_be_an_older_log]='older copy of the log put back'
serve_what_may_be_an_older_log() {
    replace src/replication/admission.rs 'State::Fenced if self.contact_missing => {' 'State::Fenced if false => {'
}

# A poisoned log.
shows[release_the_head_of_a_poisoned_log]='second writer'
mostly[release_the_head_of_a_poisoned_log]='sync fails, and nobody helps'
release_the_head_of_a_poisoned_log() {
    replace src/replication/forwarder/release.rs 'if self.sequencer.poisoned().is_some() {' 'if self.sequencer.poisoned().is_some_and(|_| false) {'
}

# Known ids.
shows[take_other_content_for_a_resend]='ids taken again'
take_other_content_for_a_resend() {
    replace src/sequencer/existing.rs '&& stored.digest == sent_event.digest' ''
}

shows[judge_known_ids_before_everybody_else]='waits|a wait|a wait outside of every outage'
mostly[judge_known_ids_before_everybody_else]='storm of known ids'
judge_known_ids_before_everybody_else() {
    replace src/sequencer.rs 'let sent = SentEvent::all_of(append);
        let suspected' 'let sent = SentEvent::all_of(append);
        if sent.len() >= 500 {
            return Ok(EarlierAttempt::NotFound { absent_up_to: None });
        }
        let suspected'
    replace src/sequencer/existing.rs 'let Some(first) = sent.first() else { return Ok(None) };' 'for event in sent {
            if let Some(place) = self.index.event(event.id)? {
                RecordRun::new(&self.segments, place)?.read()?;
            }
        }
        let Some(first) = sent.first() else { return Ok(None) };'
    replace src/sequencer/step.rs 'Duration::from_millis(10);' 'Duration::from_secs(60);' \
        'SequencerCall::Append { reply, .. } if reply.is_closed() => {}' ''
}

# Verification of ImmuDB.
story[believe_every_receipt]=tampering::lying::a_wrong_answer_that_a_second_look_refutes_is_a_finding_and_no_more
shows[believe_every_receipt]='AppendEventsResponse'
believe_every_receipt() {
    replace src/replication/ledger.rs 'if let Err(mismatch) = self.chain.append(header, Some(sent)) {
            return Verdict::Wrong(mismatch);' 'if self.chain.append(header, Some(sent)).is_err() {
            return Verdict::Expected;'
}

story[overlook_overwritten_keys]=tampering::overwriting::an_overwritten_event_is_reported_with_the_next_append
shows[overlook_overwritten_keys]='left: Immudb'
overlook_overwritten_keys() {
    replace src/replication/forwarder/examine.rs 'if !report.tampered.is_empty() && !report.head_changed {' 'if false && !report.tampered.is_empty() && !report.head_changed {'
}

story[leave_out_the_root_of_the_tree]=tampering::damaging::a_changed_byte_in_any_file_of_immudb_is_served_to_nobody
shows[leave_out_the_root_of_the_tree]='failed: aht/tree'
leave_out_the_root_of_the_tree() {
    replace src/immudb/verify/chain.rs 'if header.tree_root != root {' 'if false && header.tree_root != root {'
}

story[accept_any_signature]=tampering::signing::an_immudb_that_does_not_sign_with_the_configured_key_gets_nothing
shows[accept_any_signature]='left: Immudb'
accept_any_signature() {
    replace src/immudb/verify/state.rs '.map_err(|_| SignatureError::Invalid)' '.or(Ok(()))'
}

# A restart.
story[forget_that_immudb_was_changed]=tampering::exchanging::an_honest_copy_that_is_put_back_does_not_end_it
shows[forget_that_immudb_was_changed]='left: Connected'
forget_that_immudb_was_changed() {
    replace src/server/components.rs 'if complete.forwarded.tampered => State::Tampered,' 'if false && complete.forwarded.tampered => State::Tampered,'
    replace src/replication/forwarder.rs 'if self.replication.view().forwarded.tampered {' 'if false && self.replication.view().forwarded.tampered {'
}

story[trust_only_the_file]=tampering::trusting::the_log_knows_what_a_lost_or_damaged_file_knew
shows[trust_only_the_file]='first contact with this database'
trust_only_the_file() {
    replace src/replication/forwarder/trust.rs 'mark: mark.filter(|_| ledger.is_none()),' 'mark: mark.filter(|_| false),'
}

# build_test NAME: builds a test program once, from the unchanged sources. Prints its path.
build_test() {
    (cd "$copy" && cargo test --quiet --locked --test "$1" --no-run --message-format json) |
        sed -n 's/.*"name":"'"$1"'".*"executable":"\([^"]*\)".*/\1/p'
}

# torture SEED [FAULT]: runs 20 seconds of faults, mostly this one, or the mode --late.
torture() {
    local faults=()
    case ${2:-} in
        '') ;;
        --*) faults=("$2") ;;
        *) faults=(--mostly "$2") ;;
    esac
    (cd "$copy" && timeout 600 "$torture" --seed "$1" --seconds 20 "${faults[@]}" >"$log" 2>&1)
}

# Runs one story with the program as it is built.
tell() { (cd "$copy" && timeout 600 "$stories" --exact "$1" >"$log" 2>&1); }

# try_story WAY: prints whether its story fails, and for the right reason.
try_story() {
    local found
    if tell "${story[$1]}"; then
        echo "FAIL: $1 is not caught by ${story[$1]}"
    elif found=$(grep -m 1 -E "${shows[$1]}" "$log" | cut -c1-200) && [[ -n $found ]]; then
        echo "PASS: $1 is caught by ${story[$1]}: $found"
    else
        echo "FAIL: $1 is caught for another reason by ${story[$1]}: $(tail -n 1 "$log")"
    fi
}

# Prints the first violation of one of these kinds.
violation() {
    local found
    found=$(grep -E "^($1): " "$log" | grep -vE '^(torture|faults): ' | cut -c1-200) && echo "${found%%$'\n'*}"
}
any='[A-Za-z][A-Za-z ]*'

check=no
if [[ ${1:-} == --check ]]; then
    check=yes
    shift
fi
ways=("$@")
if ((${#ways[@]} == 0)); then
    ways=(nothing acknowledge_before_the_sync forget_the_forwarded_position
        skip_the_duplicate_check_inside_a_group take_a_time_out_for_not_written
        take_a_failed_sync_for_not_written leave_a_segment_without_a_durable_name
        leave_out_a_precondition send_the_second_without_the_first
        refuse_a_resend_where_new_events_are
        let_recorded_times_follow_the_clock publish_the_tip_before_what_is_below_it
        lose_what_is_not_in_a_file say_that_reads_fail count_no_slow_commits
        accept_nobody_after_an_error reject_writes_after_a_full_disk lock_the_file_within_alone
        take_the_index_of_another serve_what_may_be_an_older_log release_the_head_of_a_poisoned_log
        take_other_content_for_a_resend judge_known_ids_before_everybody_else
        believe_every_receipt overlook_overwritten_keys leave_out_the_root_of_the_tree
        accept_any_signature forget_that_immudb_was_changed trust_only_the_file)
fi
if [[ $check == yes ]]; then
    copy=$work/check
    for way in "${ways[@]}"; do
        rm -rf "$copy"
        mkdir -p "$copy"
        cp -r src "$copy/"
        if (cd "$copy" && "$way"); then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    done
    rm -rf "$copy"
    echo "$passed still apply, $failed do not"
    exit $((failed > 0))
fi
renew_copy
torture=$(build_test torture)
stories=
for way in "${ways[@]}"; do
    if [[ -n ${story[$way]:-} && -z $stories ]]; then stories=$(build_test it); fi
done
for way in "${ways[@]}"; do
    renew_copy
    if ! (cd "$copy" && "$way" && cargo build --quiet --locked --bin aethyr-event-store); then
        echo "FAIL: $way can't be built"
        failed=$((failed + 1))
        continue
    fi
    kinds=${shows[$way]:-}
    outcome="FAIL: $way is not caught"
    seeds=(1 2 3)
    if [[ -n ${story[$way]:-} ]]; then
        outcome=$(try_story "$way")
        seeds=()
    fi
    # Several seeds, with 60 seconds of faults in total.
    for seed in "${seeds[@]}"; do
        if torture "$seed" "${mostly[$way]:-}"; then
            continue
        elif [[ -z $kinds ]]; then
            outcome="FAIL: the service as it is fails (seed $seed): $(violation "$any" || tail -n 1 "$log")"
        elif found=$(violation "$kinds"); then
            outcome="PASS: $way is caught (seed $seed): $found"
        else
            outcome="FAIL: $way is caught for another reason (seed $seed): $(violation "$any" || tail -n 1 "$log")"
        fi
        break
    done
    if [[ -z $kinds && $outcome == *"not caught" ]]; then
        outcome="PASS: the service as it is passes"
    fi
    echo "$outcome"
    if [[ $outcome == PASS* ]]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done
echo "$passed passed, $failed failed"
((failed == 0))
