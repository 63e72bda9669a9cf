// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// Receives its share of the fees and keeps it for whoever archives deliveries.
contract ArchiveTreasury {
    using SafeERC20 for IERC20;

    IERC20 public immutable USDC;
    address public immutable uploader;

    event FundsWithdrawn(address indexed to, uint256 amount);

    constructor(address usdc, address uploader_) {
        require(usdc != address(0) && uploader_ != address(0), "Zero address");
        USDC = IERC20(usdc);
        uploader = uploader_;
    }

    function withdrawForArchiving(uint256 amount) external {
        require(msg.sender == uploader, "Only uploader");
        USDC.safeTransfer(uploader, amount);
        emit FundsWithdrawn(uploader, amount);
    }

    function getBalance() external view returns (uint256) {
        return USDC.balanceOf(address(this));
    }
}
