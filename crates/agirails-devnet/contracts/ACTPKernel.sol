// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

import {KernelRules} from "./KernelRules.sol";

/// The kernel as deployed on Base since 2026-05-19: creation with eight arguments, a view of 21 fields.
contract ACTPKernel is KernelRules {
    event TransactionCreated(
        bytes32 indexed transactionId,
        address indexed requester,
        address indexed provider,
        uint256 amount,
        bytes32 serviceHash,
        uint256 deadline,
        uint256 timestamp,
        uint256 agentId
    );

    constructor(address admin_, address pauser_, address feeRecipient_, address agentRegistry_, address usdc_)
        KernelRules(admin_, pauser_, feeRecipient_, agentRegistry_, usdc_)
    {}

    function createTransaction(
        address provider,
        address requester,
        uint256 amount,
        uint256 deadline,
        uint256 disputeWindow,
        bytes32 serviceHash,
        uint256 agentId,
        uint256 requesterAgentId
    ) external whenNotPaused returns (bytes32 transactionId) {
        transactionId = _create(
            Order(
                provider, requester, amount, deadline, disputeWindow, serviceHash, agentId, requesterAgentId
            )
        );
        emit TransactionCreated(
            transactionId, requester, provider, amount, serviceHash, deadline, block.timestamp, agentId
        );
    }

    function getTransaction(bytes32 transactionId) external view returns (Transaction memory) {
        return _find(transactionId);
    }
}
