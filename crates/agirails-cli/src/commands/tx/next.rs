//! What can become of a transaction, in one sentence. The rules have the figures.

use agirails::{
    Address, DisputeWindow, State, Terms, Transaction, Usdc,
    protocol::money::{cancellation_penalty, dispute_bond},
};

use crate::output::time;

/// What can happen next on a kernel of these terms. `remaining` is what lies in its escrow, `admin`
/// who resolves disputes.
pub fn next(tx: &Transaction, terms: Terms, now: u64, remaining: Usdc, admin: Address) -> String {
    let deadline = time(tx.deadline);
    let is_late = now > tx.deadline;
    match tx.state {
        State::Initiated | State::Quoted if is_late => {
            "Its deadline has passed: the requester can only call it off.".to_owned()
        }
        State::Initiated => format!(
            "Until {deadline} the requester can fund it, and the provider can quote a price; the \
             requester can call it off."
        ),
        State::Quoted => format!(
            "Until {deadline} the requester can accept the quote and fund it; the requester can call \
             it off."
        ),
        State::Committed => committed(tx, terms, now, remaining),
        State::InProgress => in_progress(tx, terms, now),
        State::Delivered => match tx.dispute_window {
            DisputeWindow::EndsAt(end) if now <= end => {
                let bond = dispute_bond(tx.amount, tx.dispute_bond_bps_locked);
                format!(
                    "The requester can settle now, the provider and everybody else after {}; until \
                     then both parties can dispute, for a bond of {bond} USDC.",
                    time(end)
                )
            }
            _ => "Anybody can settle now, which pays the provider.".to_owned(),
        },
        State::Settled => "Nothing: the provider was paid.".to_owned(),
        State::Disputed => {
            format!("The kernel's admin, {admin}, resolves the dispute and splits the money.")
        }
        State::Cancelled => "Nothing: it was called off.".to_owned(),
    }
}

fn in_progress(tx: &Transaction, terms: Terms, now: u64) -> String {
    let end = terms.delivered_until(tx.deadline);
    match (now > end, terms.recovered_from(tx.deadline)) {
        (true, None) => {
            "Its deadline has passed: only the provider can give the money back, and nobody can take \
             it."
            .to_owned()
        }
        (true, Some(_)) => {
            "Its deadline and the kernel's grace have passed: anybody can have the money returned to \
             the requester now (agirails reclaim)."
                .to_owned()
        }
        (false, None) => format!(
            "Until {} the provider can deliver; only the provider can give the money back.",
            time(end)
        ),
        (false, Some(recovered)) => format!(
            "Until {} the provider can deliver, or give the money back; from {} on anybody can have it \
             returned to the requester.",
            time(end),
            time(recovered)
        ),
    }
}

fn committed(tx: &Transaction, terms: Terms, now: u64, remaining: Usdc) -> String {
    let deadline = time(tx.deadline);
    let penalty = cancellation_penalty(remaining, tx.requester_penalty_bps_locked);
    let can_cancel = terms.requester_can_cancel(remaining, tx.requester_penalty_bps_locked);
    let work = match now > tx.deadline {
        true => "Its deadline has passed: the provider can only give the money back".to_owned(),
        false => format!("Until {deadline} the provider can deliver, or give the money back"),
    };
    let cancel = match (can_cancel, now >= tx.deadline) {
        (false, _) => {
            "the requester can never cancel, since the penalty would be below the least fee"
                .to_owned()
        }
        (true, true) => format!("the requester can cancel now, for a penalty of {penalty} USDC"),
        (true, false) => {
            format!("from then on the requester can cancel, for a penalty of {penalty} USDC")
        }
    };
    format!("{work}; {cancel}.")
}

#[cfg(test)]
mod tests {
    use agirails::{
        CreateTransaction, Generation,
        State::*,
        protocol::rules::{Arbiters, Call, Rates, create, recover_stalled, transition},
    };

    use super::*;

    const REQUESTER: Address = Address::repeat_byte(1);
    const PROVIDER: Address = Address::repeat_byte(2);
    const STRANGER: Address = Address::repeat_byte(3);
    const NOW: u64 = 1_800_000_000;

    fn transaction(state: State, amount: u64) -> Transaction {
        let request = CreateTransaction::new(REQUESTER, PROVIDER, Usdc(amount), NOW + 3_600);
        let (terms, rates) = (Terms::default(), Rates::default());
        let created = create(&request, REQUESTER, 0, terms, rates, NOW).unwrap();
        let dispute_window = match state {
            Delivered | Settled | Disputed => DisputeWindow::EndsAt(NOW + 7_200),
            _ => created.dispute_window,
        };
        let escrow_contract = STRANGER;
        Transaction { state, dispute_window, escrow_contract, ..created }
    }

    const GENERATIONS: [Terms; 3] =
        [Terms::MAY_2026, Terms::new(Generation::F6, 3_600), Terms::new(Generation::Aip14c, 7_200)];

    fn call(tx: &Transaction, terms: Terms, sender: Address, now: u64) -> Call<'_> {
        Call { transaction: tx, sender, now, remaining: tx.amount, terms }
    }

    fn may(tx: &Transaction, terms: Terms, sender: Address, now: u64, to: State) -> bool {
        let data = match to {
            Delivered => terms.encode_delivery(3_600, agirails::B256::repeat_byte(1)),
            _ => vec![],
        };
        let arbiters = Arbiters { resolver: STRANGER, mediators: &[] };
        transition(call(tx, terms, sender, now), to, &data, arbiters).is_ok()
    }

    fn said(tx: &Transaction, terms: Terms, now: u64) -> String {
        next(tx, terms, now, tx.amount, STRANGER)
    }

    /// The sentence and the rules say the same, second by second around each limit.
    #[test]
    fn what_is_said_is_what_the_rules_allow() {
        for terms in GENERATIONS {
            let said = |tx: &Transaction, now| said(tx, terms, now);
            let may = |tx: &Transaction, sender, now, to| may(tx, terms, sender, now, to);
            let deadline = NOW + 3_600;
            for now in [deadline - 1, deadline, deadline + 1] {
                for amount in [100_000, 1_000_000] {
                    let tx = transaction(Committed, amount);
                    let text = said(&tx, now);
                    let cancels_now = may(&tx, REQUESTER, now, Cancelled);
                    assert_eq!(text.contains("can cancel now"), cancels_now, "{text}");
                    let delivers = may(&tx, PROVIDER, now, InProgress);
                    assert_eq!(text.contains("can deliver"), delivers, "{text}");
                    let never = !may(&tx, REQUESTER, deadline + 1, Cancelled);
                    assert_eq!(text.contains("never cancel"), never, "{text}");
                    assert!(may(&tx, PROVIDER, now, Cancelled));
                }
            }
            let end = terms.delivered_until(deadline);
            for now in [deadline - 1, deadline + 1, end - 1, end, end + 1] {
                let tx = transaction(InProgress, 1_000_000);
                let text = said(&tx, now);
                let delivers = may(&tx, PROVIDER, now, Delivered);
                assert_eq!(text.contains("can deliver"), delivers, "{text}");
                let recovers = recover_stalled(call(&tx, terms, STRANGER, now)).is_ok();
                assert_eq!(text.contains("requester now"), recovers, "{text}");
                assert!(!may(&tx, REQUESTER, now, Cancelled));
            }
            let end = NOW + 7_200;
            for now in [end - 1, end, end + 1] {
                let tx = transaction(Delivered, 1_000_000);
                let text = said(&tx, now);
                assert!(may(&tx, REQUESTER, now, Settled));
                for sender in [PROVIDER, STRANGER] {
                    let settles = may(&tx, sender, now, Settled);
                    assert_eq!(text.contains("Anybody can settle now"), settles, "{now} {text}");
                }
                let disputes = may(&tx, REQUESTER, now, Disputed);
                assert_eq!(text.contains("can dispute"), disputes, "{now} {text}");
            }
        }
    }

    #[test]
    fn every_state_has_its_sentence() {
        for state in State::ALL {
            for terms in GENERATIONS {
                let text = said(&transaction(state, 1_000_000), terms, NOW);
                assert!(text.ends_with('.') && !text.contains('\n'), "{text}");
            }
        }
    }
}
