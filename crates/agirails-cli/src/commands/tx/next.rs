//! What can become of a transaction, in one sentence. The rules have the figures.

use agirails::{
    Address, DisputeWindow, State, Transaction, Usdc,
    protocol::{
        money::{cancellation_penalty, dispute_bond},
        rules::requester_can_cancel,
    },
};

use crate::output::time;

/// What can happen next. `remaining` is what lies in its escrow, `admin` who resolves disputes.
pub fn next(tx: &Transaction, now: u64, remaining: Usdc, admin: Address) -> String {
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
        State::Committed => committed(tx, now, remaining),
        State::InProgress if is_late => {
            "Its deadline has passed: only the provider can give the money back, and nobody can take \
             it."
            .to_owned()
        }
        State::InProgress => format!(
            "Until {deadline} the provider can deliver; only the provider can give the money back."
        ),
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

fn committed(tx: &Transaction, now: u64, remaining: Usdc) -> String {
    let deadline = time(tx.deadline);
    let penalty = cancellation_penalty(remaining, tx.requester_penalty_bps_locked);
    let can_cancel = requester_can_cancel(remaining, tx.requester_penalty_bps_locked);
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
        CreateTransaction,
        State::*,
        protocol::rules::{Arbiters, Call, Rates, create, transition},
    };

    use super::*;

    const REQUESTER: Address = Address::repeat_byte(1);
    const PROVIDER: Address = Address::repeat_byte(2);
    const STRANGER: Address = Address::repeat_byte(3);
    const NOW: u64 = 1_800_000_000;

    fn transaction(state: State, amount: u64) -> Transaction {
        let request = CreateTransaction::new(REQUESTER, PROVIDER, Usdc(amount), NOW + 3_600);
        let created = create(&request, REQUESTER, 0, Rates::default(), NOW).unwrap();
        let dispute_window = match state {
            Delivered | Settled | Disputed => DisputeWindow::EndsAt(NOW + 7_200),
            _ => created.dispute_window,
        };
        let escrow_contract = STRANGER;
        Transaction { state, dispute_window, escrow_contract, ..created }
    }

    fn may(tx: &Transaction, sender: Address, now: u64, to: State) -> bool {
        let call = Call { transaction: tx, sender, now, remaining: tx.amount };
        transition(call, to, &[], Arbiters { resolver: STRANGER, mediators: &[] }).is_ok()
    }

    fn said(tx: &Transaction, now: u64) -> String {
        next(tx, now, tx.amount, STRANGER)
    }

    /// The sentence and the rules say the same, second by second around each limit.
    #[test]
    fn what_is_said_is_what_the_rules_allow() {
        let deadline = NOW + 3_600;
        for now in [deadline - 1, deadline, deadline + 1] {
            for amount in [100_000, 1_000_000] {
                let tx = transaction(Committed, amount);
                let text = said(&tx, now);
                assert_eq!(
                    text.contains("can cancel now"),
                    may(&tx, REQUESTER, now, Cancelled),
                    "{text}"
                );
                assert_eq!(
                    text.contains("can deliver"),
                    may(&tx, PROVIDER, now, InProgress),
                    "{text}"
                );
                assert_eq!(text.contains("never cancel"), amount < 1_000_000, "{text}");
                assert!(may(&tx, PROVIDER, now, Cancelled));
            }
            let tx = transaction(InProgress, 1_000_000);
            let text = said(&tx, now);
            assert_eq!(text.contains("can deliver"), may(&tx, PROVIDER, now, Delivered), "{text}");
            assert!(!may(&tx, REQUESTER, now, Cancelled));
        }
        let end = NOW + 7_200;
        for now in [end - 1, end, end + 1] {
            let tx = transaction(Delivered, 1_000_000);
            let text = said(&tx, now);
            assert!(may(&tx, REQUESTER, now, Settled));
            for sender in [PROVIDER, STRANGER] {
                assert_eq!(
                    text.contains("Anybody can settle now"),
                    may(&tx, sender, now, Settled),
                    "{now} {text}"
                );
            }
            assert_eq!(
                text.contains("can dispute"),
                may(&tx, REQUESTER, now, Disputed),
                "{now} {text}"
            );
        }
    }

    #[test]
    fn every_state_has_its_sentence() {
        for state in State::ALL {
            let text = said(&transaction(state, 1_000_000), NOW);
            assert!(text.ends_with('.') && !text.contains('\n'), "{text}");
        }
    }
}
