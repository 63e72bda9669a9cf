// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";

/// Holds the money of linked transactions, and the bonds of disputed ones, until the kernel says
/// where it goes. An escrow that is fully paid out leaves no record: its fields read as zeros.
contract EscrowVault is ReentrancyGuard {
    using SafeERC20 for IERC20;

    struct Escrow {
        address requester;
        address provider;
        uint256 amount;
        uint256 releasedAmount;
        bool active;
    }

    IERC20 public immutable token;
    address public immutable kernel;

    mapping(bytes32 escrowId => Escrow) public escrows;
    /// Bonds lie beside the escrows, which they outlast where an escrow is empty.
    mapping(bytes32 escrowId => uint256) public bonds;

    event EscrowCreated(
        bytes32 indexed escrowId, address indexed requester, address indexed provider, uint256 amount
    );
    event EscrowPayout(bytes32 indexed escrowId, address indexed recipient, uint256 amount);
    event EscrowCompleted(bytes32 indexed escrowId, uint256 totalReleased);
    event BondDeposited(bytes32 indexed escrowId, address indexed depositor, uint256 amount);
    event BondReleased(bytes32 indexed escrowId, address indexed recipient, uint256 amount);

    modifier onlyKernel() {
        require(msg.sender == kernel, "Only kernel");
        _;
    }

    constructor(address token_, address kernel_) {
        require(token_ != address(0) && kernel_ != address(0), "Zero address");
        token = IERC20(token_);
        kernel = kernel_;
    }

    /// Pulls the amount from the requester, who must have approved this vault for it.
    function createEscrow(bytes32 escrowId, address requester, address provider, uint256 amount)
        external
        onlyKernel
        nonReentrant
    {
        require(escrows[escrowId].amount == 0, "Escrow exists");
        escrows[escrowId] = Escrow(requester, provider, amount, 0, true);
        token.safeTransferFrom(requester, address(this), amount);
        emit EscrowCreated(escrowId, requester, provider, amount);
    }

    function payoutToProvider(bytes32 escrowId, uint256 amount) external onlyKernel returns (uint256) {
        return _disburse(escrowId, escrows[escrowId].provider, amount);
    }

    function refundToRequester(bytes32 escrowId, uint256 amount) external onlyKernel returns (uint256) {
        return _disburse(escrowId, escrows[escrowId].requester, amount);
    }

    function payout(bytes32 escrowId, address recipient, uint256 amount) external onlyKernel returns (uint256) {
        return _disburse(escrowId, recipient, amount);
    }

    /// Pulls a bond from a disputer, who must have approved this vault for it.
    function depositBond(bytes32 escrowId, address depositor, uint256 amount) external onlyKernel nonReentrant {
        bonds[escrowId] += amount;
        token.safeTransferFrom(depositor, address(this), amount);
        emit BondDeposited(escrowId, depositor, amount);
    }

    function releaseBond(bytes32 escrowId, address recipient, uint256 amount) external onlyKernel nonReentrant {
        require(amount <= bonds[escrowId], "Insufficient bond");
        bonds[escrowId] -= amount;
        token.safeTransfer(recipient, amount);
        emit BondReleased(escrowId, recipient, amount);
    }

    function remaining(bytes32 escrowId) public view returns (uint256) {
        Escrow storage escrow = escrows[escrowId];
        return escrow.amount - escrow.releasedAmount;
    }

    /// Whether the escrow is active, is theirs and holds at least this amount; and what it was
    /// created with.
    function verifyEscrow(bytes32 escrowId, address requester, address provider, uint256 amount)
        external
        view
        returns (bool isActive, uint256 escrowAmount)
    {
        Escrow storage escrow = escrows[escrowId];
        escrowAmount = escrow.amount;
        isActive = escrow.active && escrow.requester == requester && escrow.provider == provider
            && escrowAmount >= amount;
    }

    function _disburse(bytes32 escrowId, address recipient, uint256 amount)
        private
        nonReentrant
        returns (uint256)
    {
        Escrow storage escrow = escrows[escrowId];
        require(escrow.active, "Escrow inactive");
        require(amount > 0, "Amount zero");
        require(amount <= escrow.amount - escrow.releasedAmount, "Insufficient escrow");
        escrow.releasedAmount += amount;
        if (escrow.releasedAmount == escrow.amount) {
            emit EscrowCompleted(escrowId, escrow.amount);
            delete escrows[escrowId];
        }
        token.safeTransfer(recipient, amount);
        emit EscrowPayout(escrowId, recipient, amount);
        return amount;
    }
}
