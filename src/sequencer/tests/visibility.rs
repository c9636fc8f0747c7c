//! What readers see while appends are stored.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_half_of_an_append_or_figures_of_two_moments() {
    const APPENDS: u64 = 1500;
    let folder = tempdir().unwrap();
    let running = start(&in_folder(&folder));
    let ids = ["a", "b"].map(|id| AggregateId::new(id).unwrap());
    let (sequencer, index) = (running.sequencer.clone(), running.history.index.clone());
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (sequencer, index, ids) = (sequencer.clone(), index.clone(), ids.clone());
            std::thread::spawn(move || {
                let last = |id| index.head(id).unwrap().map_or(0, |head| head.last.0);
                loop {
                    let [first, second] = [last(&ids[0]), last(&ids[1])];
                    assert!(second >= first, "an append is seen in {first} and not in {second}");
                    let tip = sequencer.tip().position.0;
                    assert!(tip >= 2 * second.min(first), "{first} events are seen, and the tip is {tip}");
                    let (complete, totals) = index.figures();
                    let position = complete.tip.position.0;
                    assert_eq!(totals.event_types.values().sum::<u64>(), position);
                    assert!(position <= sequencer.tip().position.0, "figures of what is not published");
                    let listed = index.aggregates("", None, 10).unwrap();
                    let numbers: Vec<u64> = listed.iter().map(|(_, head)| head.last.0).collect();
                    assert!(numbers.windows(2).all(|pair| pair[0] == pair[1]), "{numbers:?}");
                    if first >= APPENDS {
                        return;
                    }
                }
            })
        })
        .collect();
    for _ in 0..APPENDS {
        let [first, second] = [one_event("a"), one_event("b")].map(|append| append.events);
        let append = Append { events: first.into_iter().chain(second).collect(), expected: Vec::new() };
        running.sequencer.append(append, Origin::default()).await.unwrap();
    }
    for reader in readers {
        tokio::task::spawn_blocking(move || reader.join().unwrap()).await.unwrap();
    }
}
