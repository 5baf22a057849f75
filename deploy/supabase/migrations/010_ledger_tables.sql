-- The ledger: who works on which session, how often it was tried, how it ended, what was given back.
--
-- The session tables belong to the application, and the owner of a b2c row may write to it. What is settled
-- and what was paid therefore stands here, where no user can reach it. Neither table is in the publication
-- supabase_realtime: a lease renewed every 10 seconds is no news for a browser.

create table if not exists public.generation_ledger (
  channel text not null check (channel in ('b2c', 'b2b')),
  session_id uuid not null,
  -- The user or store of the session row, never of the payload.
  owner_id uuid not null,
  -- Kept as it came, so that a lost job can be put back on the queue; dropped when the session is settled,
  -- because it holds a prompt and signed addresses.
  task jsonb,
  request_id text,

  -- waiting: held (or given up by its holder), not begun. working: claimed. retrying: waits for a rate limit.
  state text not null default 'waiting' check (state in ('waiting', 'working', 'retrying', 'settled')),
  -- Counts claims and is the fencing token of everything that follows one.
  attempt integer not null default 0,
  rate_limit_retries integer not null default 0,
  -- One delivery of one task, null once it was given up. last_holder lets a call repeat after a lost answer.
  holder text,
  last_holder text,
  lease_expires_at timestamptz,
  -- Put back on the queue by a sweeper: whoever asks first has it, the old holder included.
  recovering boolean not null default false,
  due_at timestamptz,
  deadline_at timestamptz,
  held_at timestamptz not null default now(),
  claimed_at timestamptz,

  outcome text check (outcome in ('completed', 'failed')),
  -- elsewhere: the row was found settled by the application or by its owner. gone: there was no row any more.
  settled_by text
    check (settled_by in ('worker', 'rejection', 'reaper', 'cancellation', 'elsewhere', 'gone')),
  settled_at timestamptz,
  error_code text,
  object_path text,
  refund_state text
    check (refund_state in ('refunded', 'already_refunded', 'overage', 'nothing_deducted', 'owed', 'none')),
  refund_amount integer,
  refund_payer text check (refund_payer in ('user', 'store', 'shopper')),
  refunded_at timestamptz,
  -- SQLSTATE of the refund that could not be made.
  refund_error text,
  -- Why a person should look at this session, until one has (then when, and what they noted).
  flagged_reason text,
  looked_at timestamptz,
  looked_at_note text,

  primary key (channel, session_id),
  -- Whatever is not settled has an expiry, so the jobs of a killed process are found whatever it was doing.
  constraint generation_ledger_lease check ((state = 'settled') = (lease_expires_at is null)),
  constraint generation_ledger_outcome check ((state = 'settled') = (outcome is not null))
);

-- Attempts that ended without an outcome because the provider refused every job: no sign of a poisoned task.
alter table public.generation_ledger add column if not exists postponed integer not null default 0;
-- Holders that vanished without giving the session up, waiting or working: the job may be what killed them.
alter table public.generation_ledger add column if not exists holders_lost integer not null default 0;
-- Since when an object may be in Storage that nobody should see; the sweep deletes it.
alter table public.generation_ledger add column if not exists object_unwanted_since timestamptz;

-- When the first call of the provider for it began, whatever came of that: it cannot be cancelled any more.
alter table public.generation_ledger add column if not exists call_begun_at timestamptz;

-- A ledger from before sessions could be cancelled lets nobody settle one so. Not validated, which would read
-- the whole table: what the narrower check let in passes the wider one.
do $$
begin
  if not exists (
    select from pg_catalog.pg_constraint
     where conrelid = 'public.generation_ledger'::regclass and conname = 'generation_ledger_settled_by_check'
       and pg_catalog.pg_get_constraintdef(oid) like '%cancellation%'
  ) then
    alter table public.generation_ledger
      drop constraint generation_ledger_settled_by_check,
      add constraint generation_ledger_settled_by_check
        check (settled_by in ('worker', 'rejection', 'reaper', 'cancellation', 'elsewhere', 'gone')) not valid;
  end if;
end
$$;

-- When the pictures were deleted because of their age.
alter table public.generation_ledger add column if not exists result_deleted_at timestamptz;
alter table public.generation_ledger add column if not exists inputs_deleted_at timestamptz;

-- One row per answer of the image provider, whatever became of the attempt: what was really paid.
create table if not exists public.generation_usage (
  call_id uuid primary key,
  channel text not null check (channel in ('b2c', 'b2b')),
  session_id uuid not null,
  attempt integer not null,
  model text not null,
  input_tokens integer,
  output_tokens integer,
  cost_usd numeric(12, 6),
  created_at timestamptz not null default now()
);

alter table public.generation_ledger enable row level security;
alter table public.generation_usage enable row level security;
revoke all on public.generation_ledger, public.generation_usage from public, anon, authenticated;
grant select, insert, update, delete on public.generation_ledger, public.generation_usage to service_role;
