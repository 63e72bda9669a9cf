// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

import {ACTPKernel} from "./ACTPKernel.sol";

/// A kernel of the generation that is published but not deployed: what it adds to the deployed one,
/// and the two clocks that it changes.
contract NewerKernel is ACTPKernel {
    uint256 public constant MIN_DEADLINE = 1 hours;
    uint256 public constant MIN_RECOVERY_GRACE = 1 hours;
    /// How long after its deadline work can still be delivered, in seconds.
    uint256 public immutable recoveryGrace;

    event StalledInProgressRecovered(bytes32 indexed transactionId, address indexed requester, uint256 amount);

    constructor(
        address admin_,
        address pauser_,
        address feeRecipient_,
        address agentRegistry_,
        address usdc_,
        uint256 recoveryGrace_
    ) ACTPKernel(admin_, pauser_, feeRecipient_, agentRegistry_, usdc_) {
        require(recoveryGrace_ >= MIN_RECOVERY_GRACE, "Recovery grace too short");
        recoveryGrace = recoveryGrace_;
    }

    /// Gives the money of abandoned work back to its requester; anybody may ask.
    function recoverStalledInProgress(bytes32 transactionId) external nonReentrant {
        Transaction storage transaction = _find(transactionId);
        require(transaction.state == State.IN_PROGRESS, "Not in progress");
        require(block.timestamp >= transaction.deadline + recoveryGrace, "Recovery not yet available");
        uint256 remaining = _remaining(transaction);
        transaction.state = State.CANCELLED;
        transaction.updatedAt = block.timestamp;
        emit StateTransitioned(
            transactionId, State.IN_PROGRESS, State.CANCELLED, msg.sender, block.timestamp
        );
        emit StalledInProgressRecovered(transactionId, transaction.requester, remaining);
        _remember(transaction, true);
        _refund(transaction, remaining);
    }

    /// Ends a dispute as `transitionState` does, also during a pause.
    function resolveDisputeWhilePaused(bytes32 transactionId, State newState, bytes calldata proof)
        external
        nonReentrant
    {
        require(newState == State.SETTLED || newState == State.CANCELLED, "Resolve only");
        Transaction storage transaction = _find(transactionId);
        require(transaction.state == State.DISPUTED, "Not disputed");
        require(msg.sender == admin, "Resolver only");
        _transition(transaction, newState, proof);
    }

    function _checkDeadline(uint256 deadline) internal view override {
        require(deadline > block.timestamp, "Deadline in past");
        require(deadline - block.timestamp >= MIN_DEADLINE, "Deadline too soon");
        require(deadline - block.timestamp <= MAX_DEADLINE, "Deadline too far");
    }

    function _checkDeliveryTime(uint256 deadline) internal view override {
        require(block.timestamp < deadline + recoveryGrace, "Delivery grace expired");
    }
}
