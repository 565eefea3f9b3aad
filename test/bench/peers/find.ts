import { findNative } from './native.ts';
import type { Peer, PeerName, PeerOptions } from './peer.ts';
import { findQemu } from './qemu.ts';
import { findSwitchyard } from './switchyard.ts';
import { findV86 } from './v86.ts';

/** Finds or installs a peer. @throws PeerMissingError */
export function findPeer(name: PeerName, options: PeerOptions): Promise<Peer> {
  switch (name) {
    case 'native':
      return findNative(options);
    case 'qemu':
      return findQemu(options);
    case 'v86':
      return findV86(options);
    case 'switchyard':
      return findSwitchyard(options);
  }
}
