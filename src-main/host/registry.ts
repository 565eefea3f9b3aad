import { randomUUID } from 'node:crypto';
import type Database from 'better-sqlite3';
import { z } from 'zod';
import { acceleratorSchema } from '../../src-core/protocol/engine.ts';
import { type EngineSample, reasonUseSchema } from '../../src-core/protocol/engine-comparison.ts';
import {
  engineKindSchema,
  vmConfigSchema,
  vmEndSchema,
  type ExitHistoryPoint,
  type Snapshot,
  type VmConfig,
  type VmEnd,
} from '../../src-core/protocol/vm.ts';

/** What the registry keeps of a VM. */
export interface VmRecord {
  id: string;
  config: VmConfig;
  origin: 'user' | 'firstGuest';
  createdAt: number;
  modifiedAt: number;
  /** When the run under way started; still set at a host's start when the host before it died. */
  runStartedAt: number | null;
  lastEnd: VmEnd | null;
  currentSnapshotId: string | null;
}

/** What the registry keeps of a snapshot beyond what the window sees. */
export interface SnapshotRecord extends Snapshot {
  /** The VM's configuration when it was taken: the machine the state fits. */
  config: VmConfig;
  /** The serial ports' screens as terminal text, by port. */
  screens: Record<string, string>;
}

const vmRow = z
  .object({
    id: z.string(),
    config: z.string(),
    origin: z.enum(['user', 'firstGuest']),
    created_at: z.number(),
    modified_at: z.number(),
    run_started_at: z.number().nullable(),
    last_end: z.string().nullable(),
    current_snapshot_id: z.string().nullable(),
  })
  .transform((row): VmRecord => ({
    id: row.id,
    config: vmConfigSchema.parse(JSON.parse(row.config)),
    origin: row.origin,
    createdAt: row.created_at,
    modifiedAt: row.modified_at,
    runStartedAt: row.run_started_at,
    lastEnd: row.last_end === null ? null : vmEndSchema.parse(JSON.parse(row.last_end)),
    currentSnapshotId: row.current_snapshot_id,
  }));

const snapshotRow = z
  .object({
    id: z.string(),
    vm_id: z.string(),
    name: z.string(),
    parent_id: z.string().nullable(),
    created_at: z.number(),
    size_bytes: z.number(),
    memory_mib: z.number(),
    engine: engineKindSchema,
    config: z.string(),
    screens: z.string(),
  })
  .transform((row): SnapshotRecord => ({
    id: row.id,
    vmId: row.vm_id,
    name: row.name,
    parentId: row.parent_id,
    createdAt: row.created_at,
    sizeBytes: row.size_bytes,
    memoryMib: row.memory_mib,
    engine: row.engine,
    config: vmConfigSchema.parse(JSON.parse(row.config)),
    screens: z.record(z.string(), z.string()).parse(JSON.parse(row.screens)),
  }));

const sampleRow = z
  .object({
    at: z.number(),
    engine: engineKindSchema,
    instructions_per_second: z.number(),
    rates: z.string(),
  })
  .transform((row): ExitHistoryPoint => ({
    at: row.at,
    engine: row.engine,
    instructionsPerSecond: row.instructions_per_second,
    rates: z.record(z.string(), z.number()).parse(JSON.parse(row.rates)),
  }));

const engineSampleRow = z
  .object({
    at: z.number(),
    engine: engineKindSchema,
    accelerator: acceleratorSchema.nullable(),
    ms: z.number(),
    instructions: z.number(),
    reasons: z.string(),
  })
  .transform(({ at, engine, accelerator, ms, instructions, reasons }): EngineSample => ({
    at,
    engine: { kind: engine, accelerator },
    ms,
    instructions,
    reasons: z.record(z.string(), reasonUseSchema).parse(JSON.parse(reasons)),
  }));

/** Points of the exit time series kept for each VM: half a day at one every five seconds. */
export const HISTORY_POINTS_MAX = 8640;
/** Pruning costs a delete; it is done once in so many samples, so the table may run over by that much. */
const PRUNE_EVERY = 100;

/** VMs, snapshots, settings and the exit time series in SQLite. All times are host ms since 1970. */
export class Registry {
  readonly #database: Database.Database;
  #samples = 0;
  #engineSamples = 0;

  /** @param database from `openDatabase`; `close` closes it. */
  constructor(database: Database.Database) {
    this.#database = database;
  }

  close(): void {
    this.#database.close();
  }

  listVms(): VmRecord[] {
    return z.array(vmRow).parse(this.#database.prepare('SELECT * FROM vms ORDER BY created_at, id').all());
  }

  createVm(config: VmConfig, origin: VmRecord['origin'], now = Date.now()): VmRecord {
    const record: VmRecord = {
      id: randomUUID(),
      config,
      origin,
      createdAt: now,
      modifiedAt: now,
      runStartedAt: null,
      lastEnd: null,
      currentSnapshotId: null,
    };
    this.#database
      .prepare('INSERT INTO vms (id, config, origin, created_at, modified_at) VALUES (?, ?, ?, ?, ?)')
      .run(record.id, JSON.stringify(config), origin, now, now);
    return record;
  }

  /** Writes everything that can change of a VM. */
  saveVm(record: VmRecord): void {
    this.#database
      .prepare(
        `UPDATE vms SET config = ?, modified_at = ?, run_started_at = ?, last_end = ?, current_snapshot_id = ?
         WHERE id = ?`,
      )
      .run(
        JSON.stringify(record.config),
        record.modifiedAt,
        record.runStartedAt,
        record.lastEnd === null ? null : JSON.stringify(record.lastEnd),
        record.currentSnapshotId,
        record.id,
      );
  }

  /** Deletes a VM with its snapshots' rows and its time series. */
  deleteVm(id: string): void {
    this.#database.prepare('DELETE FROM vms WHERE id = ?').run(id);
  }

  listSnapshots(vmId: string): SnapshotRecord[] {
    return z
      .array(snapshotRow)
      .parse(
        this.#database.prepare('SELECT * FROM snapshots WHERE vm_id = ? ORDER BY created_at, id').all(vmId),
      );
  }

  /** The ids of all snapshots of all VMs. */
  snapshotIds(): Set<string> {
    const rows = z
      .array(z.object({ id: z.string() }))
      .parse(this.#database.prepare('SELECT id FROM snapshots').all());
    return new Set(rows.map(({ id }) => id));
  }

  /** Enters a snapshot and makes it its VM's current one, in one transaction. */
  addSnapshot(snapshot: SnapshotRecord): void {
    this.#database.transaction(() => {
      this.#database
        .prepare(
          `INSERT INTO snapshots
             (id, vm_id, name, parent_id, created_at, size_bytes, memory_mib, engine, config, screens)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
        )
        .run(
          snapshot.id,
          snapshot.vmId,
          snapshot.name,
          snapshot.parentId,
          snapshot.createdAt,
          snapshot.sizeBytes,
          snapshot.memoryMib,
          snapshot.engine,
          JSON.stringify(snapshot.config),
          JSON.stringify(snapshot.screens),
        );
      this.#database
        .prepare('UPDATE vms SET current_snapshot_id = ? WHERE id = ?')
        .run(snapshot.id, snapshot.vmId);
    })();
  }

  renameSnapshot(id: string, name: string): void {
    this.#database.prepare('UPDATE snapshots SET name = ? WHERE id = ?').run(name, id);
  }

  /** Removes a snapshot's row; its children, and the VM when it was current, then descend from its parent. */
  deleteSnapshot(snapshot: Snapshot): void {
    this.#database.transaction(() => {
      this.#database
        .prepare('UPDATE snapshots SET parent_id = ? WHERE parent_id = ?')
        .run(snapshot.parentId, snapshot.id);
      this.#database
        .prepare('UPDATE vms SET current_snapshot_id = ? WHERE current_snapshot_id = ?')
        .run(snapshot.parentId, snapshot.id);
      this.#database.prepare('DELETE FROM snapshots WHERE id = ?').run(snapshot.id);
    })();
  }

  settings(): Record<string, z.infer<ReturnType<typeof z.json>>> {
    const rows = z
      .array(z.object({ key: z.string(), value: z.string() }))
      .parse(this.#database.prepare('SELECT key, value FROM settings').all());
    return Object.fromEntries(rows.map(({ key, value }) => [key, z.json().parse(JSON.parse(value))]));
  }

  setSetting(key: string, value: unknown): void {
    this.#database
      .prepare(
        'INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value',
      )
      .run(key, JSON.stringify(value));
  }

  /** Adds a point to a VM's time series, which keeps its newest `pointsMax` points. */
  addSample(vmId: string, point: ExitHistoryPoint, pointsMax = HISTORY_POINTS_MAX): void {
    this.#database
      .prepare(
        `INSERT OR REPLACE INTO exit_samples (vm_id, at, engine, instructions_per_second, rates)
         VALUES (?, ?, ?, ?, ?)`,
      )
      .run(
        vmId,
        Math.round(point.at),
        point.engine,
        point.instructionsPerSecond,
        JSON.stringify(point.rates),
      );
    if (this.#samples++ % PRUNE_EVERY === 0) this.pruneSamples(vmId, pointsMax);
  }

  pruneSamples(vmId: string, pointsMax = HISTORY_POINTS_MAX): void {
    this.#database
      .prepare(
        `DELETE FROM exit_samples WHERE vm_id = ? AND at <=
           (SELECT at FROM exit_samples WHERE vm_id = ? ORDER BY at DESC LIMIT 1 OFFSET ?)`,
      )
      .run(vmId, vmId, pointsMax);
  }

  /** Adds to what is kept of a VM's engines: its newest `rowsMax` samples. */
  addEngineSamples(vmId: string, samples: readonly EngineSample[], rowsMax = HISTORY_POINTS_MAX): void {
    const insert = this.#database.prepare(
      `INSERT INTO engine_samples (vm_id, at, engine, accelerator, ms, instructions, reasons)
       VALUES (?, ?, ?, ?, ?, ?, ?)`,
    );
    this.#database.transaction(() => {
      for (const { at, engine, ms, instructions, reasons } of samples) {
        const { kind, accelerator } = engine;
        insert.run(vmId, Math.round(at), kind, accelerator, ms, instructions, JSON.stringify(reasons));
      }
    })();
    if (this.#engineSamples++ % PRUNE_EVERY === 0) this.pruneEngineSamples(vmId, rowsMax);
  }

  pruneEngineSamples(vmId: string, rowsMax = HISTORY_POINTS_MAX): void {
    this.#database
      .prepare(
        `DELETE FROM engine_samples WHERE vm_id = ? AND at <=
           (SELECT at FROM engine_samples WHERE vm_id = ? ORDER BY at DESC LIMIT 1 OFFSET ?)`,
      )
      .run(vmId, vmId, rowsMax);
  }

  /** What is kept of a VM's engines from a time on, oldest first. */
  engineSamples(vmId: string, fromMs: number): EngineSample[] {
    return z
      .array(engineSampleRow)
      .parse(
        this.#database
          .prepare('SELECT * FROM engine_samples WHERE vm_id = ? AND at >= ? ORDER BY at, rowid')
          .all(vmId, fromMs),
      );
  }

  /** A VM's time series from a time on, oldest first, thinned evenly to at most `pointsMax` points. */
  history(vmId: string, fromMs: number, pointsMax: number): ExitHistoryPoint[] {
    const points = z
      .array(sampleRow)
      .parse(
        this.#database
          .prepare('SELECT * FROM exit_samples WHERE vm_id = ? AND at >= ? ORDER BY at')
          .all(vmId, fromMs),
      );
    if (points.length <= pointsMax) return points;
    const step = points.length / pointsMax;
    return Array.from({ length: pointsMax }, (_, index) => points[Math.floor(index * step)]).filter(
      (point) => point !== undefined,
    );
  }
}
