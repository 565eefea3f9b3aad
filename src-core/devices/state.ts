import { z } from 'zod';

/** Building blocks of the devices' saved state; each names what a register of that width can hold. */
export const bit = z.union([z.literal(0), z.literal(1)]);
export const u3 = z.int().min(0).max(7);
export const u8 = z.int().min(0).max(0xff);
export const u16 = z.int().min(0).max(0xffff);
export const u32 = z.int().min(0).max(0xffffffff);
/** Guest time in ns; fractions and negative values are allowed where a device computes with them. */
export const guestNs = z.number();
/** A deadline in guest ns, or null when nothing is armed. */
export const deadline = z.number().nullable();
