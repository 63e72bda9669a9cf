// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

import {KernelRules} from "./KernelRules.sol";

/// What the generation of 2026-06-24 (F-6) adds: abandoned work is recovered after a grace, mediators
/// resolve disputes, a fee is never more than what it is taken of.
abstract contract Recovery is KernelRules {
    uint256 public constant MIN_DEADLINE = 1 hours;
    uint256 public constant MIN_RECOVERY_GRACE = 1 hours;
    /// How long after its deadline work can still be delivered, in seconds.
    uint256 public immutable recoveryGrace;

    event StalledInProgressRecovered(bytes32 indexed transactionId, address indexed requester, uint256 amount);

    constructor(uint256 recoveryGrace_) {
        require(recoveryGrace_ >= MIN_RECOVERY_GRACE, "Recovery grace too short");
        recoveryGrace = recoveryGrace_;
    }

    /// Gives the money of abandoned work back to its requester; anybody may ask.
    function recoverStalledInProgress(bytes32 transactionId) external nonReentrant {
        Transaction storage transaction = _find(transactionId);
        require(transaction.state == State.IN_PROGRESS, "Not in progress");
        require(block.timestamp >= transaction.deadline + recoveryGrace, "Recovery not yet available");
        require(transaction.escrowContract != address(0), "Escrow missing");
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
        require(_isResolver(), "Resolver only");
        _transition(transaction, newState, proof);
    }

    function _checkDeadline(uint256 deadline) internal view virtual override {
        require(deadline > block.timestamp, "Deadline in past");
        require(deadline - block.timestamp >= MIN_DEADLINE, "Deadline too soon");
        require(deadline - block.timestamp <= MAX_DEADLINE, "Deadline too far");
    }

    function _checkDeliveryTime(uint256 deadline) internal view virtual override {
        require(block.timestamp < deadline + recoveryGrace, "Delivery grace expired");
    }

    function _isResolver() internal view virtual override returns (bool) {
        uint256 approvedAt = mediatorApprovedAt[msg.sender];
        bool mediates = approvedMediators[msg.sender] && approvedAt != 0 && block.timestamp >= approvedAt;
        return mediates || super._isResolver();
    }

    function _fee(uint256 gross, uint256 bps) internal pure virtual override returns (uint256 fee) {
        fee = gross * bps / MAX_BPS;
        if (fee < MIN_FEE) fee = MIN_FEE;
        if (fee > gross) fee = gross;
    }
}
