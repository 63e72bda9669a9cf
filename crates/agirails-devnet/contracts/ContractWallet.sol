// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// A contract wallet as small as it can be: its owner acts and signs for it (EIP-1271). For tests.
///
/// A signature is the owner's 65 bytes and any number of zero bytes, since those of real wallets are
/// longer than a key's.
contract ContractWallet {
    bytes4 private constant IS_VALID_SIGNATURE = 0x1626ba7e;

    address public owner;

    constructor(address owner_) {
        owner = owner_;
    }

    function execute(address to, bytes calldata data) external returns (bytes memory) {
        require(msg.sender == owner, "Only owner");
        (bool succeeded, bytes memory answer) = to.call(data);
        if (succeeded) return answer;
        assembly ("memory-safe") {
            revert(add(answer, 32), mload(answer))
        }
    }

    function setOwner(address owner_) external {
        require(msg.sender == owner, "Only owner");
        owner = owner_;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        if (signature.length < 65) return 0xffffffff;
        for (uint256 i = 65; i < signature.length; ++i) {
            if (signature[i] != 0) return 0xffffffff;
        }
        (address signer, ECDSA.RecoverError problem,) = ECDSA.tryRecover(hash, signature[:65]);
        bool isOwner = problem == ECDSA.RecoverError.NoError && signer == owner;
        return isOwner ? IS_VALID_SIGNATURE : bytes4(0xffffffff);
    }
}

/// Deploys wallets to addresses that are known before (CREATE2).
contract ContractWalletFactory {
    function create(address owner, bytes32 salt) external returns (address) {
        address wallet = predict(owner, salt);
        return wallet.code.length > 0 ? wallet : address(new ContractWallet{salt: salt}(owner));
    }

    function predict(address owner, bytes32 salt) public view returns (address) {
        bytes32 code = keccak256(abi.encodePacked(type(ContractWallet).creationCode, abi.encode(owner)));
        bytes32 hash = keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, code));
        return address(uint160(uint256(hash)));
    }
}

/// A wallet that harms whoever asks it: it burns all gas, or returns without end. For tests.
contract HostileWallet {
    bool private immutable isEndless;

    constructor(bool isEndless_) {
        isEndless = isEndless_;
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        if (isEndless) {
            assembly {
                mstore(0, 0x1626ba7e00000000000000000000000000000000000000000000000000000000)
                return(0, 400000)
            }
        }
        while (true) {}
        return 0x1626ba7e;
    }
}
