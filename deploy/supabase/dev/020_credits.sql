-- Local stand-in for the application's credits: users (b2c), stores and their shoppers (b2b).

create table if not exists public.user_credits (
  user_id uuid primary key,
  balance integer not null default 0 check (balance >= 0),
  total_earned integer not null default 0,
  total_spent integer not null default 0
);

create table if not exists public.credit_transactions (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null,
  amount integer not null,
  type text not null check (type in ('signup_bonus', 'generation', 'refund')),
  description text,
  created_at timestamptz not null default now()
);

create table if not exists public.stores (
  id uuid primary key,
  name text not null default '',
  billing_mode text not null default 'absorb_mode' check (billing_mode in ('absorb_mode', 'resell_mode')),
  created_at timestamptz not null default now()
);

create table if not exists public.store_credits (
  store_id uuid primary key references public.stores (id) on delete cascade,
  balance integer not null default 0 check (balance >= 0),
  total_purchased integer not null default 0,
  total_spent integer not null default 0
);

create table if not exists public.store_credit_transactions (
  id uuid primary key default gen_random_uuid(),
  store_id uuid not null references public.stores (id) on delete cascade,
  amount integer not null,
  type text not null check (type in ('deduction', 'refund', 'purchase', 'subscription', 'overage')),
  request_id text,
  description text,
  created_at timestamptz not null default now(),
  unique (store_id, request_id, type)
);

create table if not exists public.store_shopper_credits (
  store_id uuid not null references public.stores (id) on delete cascade,
  shopper_email text not null,
  balance integer not null default 0 check (balance >= 0),
  total_purchased integer not null default 0,
  total_spent integer not null default 0,
  primary key (store_id, shopper_email)
);

alter table public.user_credits enable row level security;
alter table public.credit_transactions enable row level security;
alter table public.stores enable row level security;
alter table public.store_credits enable row level security;
alter table public.store_credit_transactions enable row level security;
alter table public.store_shopper_credits enable row level security;

drop policy if exists own_balance on public.user_credits;
create policy own_balance on public.user_credits for select to authenticated using (user_id = auth.uid());
drop policy if exists own_transactions on public.credit_transactions;
create policy own_transactions on public.credit_transactions
  for select to authenticated using (user_id = auth.uid());

-- ---------------------------------------------------------------------------------------- b2c

create or replace function public.deduct_credits(p_user_id uuid, p_amount integer, p_description text)
returns boolean
language plpgsql
as $$
begin
  update public.user_credits
     set balance = balance - p_amount, total_spent = total_spent + p_amount
   where user_id = p_user_id and balance >= p_amount;
  if not found then
    return false;
  end if;
  insert into public.credit_transactions (user_id, amount, type, description)
  values (p_user_id, -p_amount, 'generation', p_description);
  return true;
end
$$;

-- Not idempotent, as in the application: called twice it pays twice.
create or replace function public.refund_credits(p_user_id uuid, p_amount integer, p_description text)
returns void
language plpgsql
as $$
begin
  update public.user_credits
     set balance = balance + p_amount, total_spent = total_spent - p_amount
   where user_id = p_user_id;
  insert into public.credit_transactions (user_id, amount, type, description)
  values (p_user_id, p_amount, 'refund', p_description);
end
$$;

-- ---------------------------------------------------------------------------------------- b2b

-- A store in absorb_mode pays itself. Where its balance is used up, money is charged elsewhere and an
-- overage row says so.
create or replace function public.deduct_store_credits(
  p_store_id uuid, p_amount integer, p_request_id text, p_description text
) returns boolean
language plpgsql
as $$
begin
  update public.store_credits
     set balance = balance - p_amount, total_spent = total_spent + p_amount
   where store_id = p_store_id and balance >= p_amount;
  insert into public.store_credit_transactions (store_id, amount, type, request_id, description)
  values (p_store_id, p_amount, case when found then 'deduction' else 'overage' end, p_request_id, p_description);
  return true;
end
$$;

-- A store in resell_mode lets the shopper pay.
create or replace function public.deduct_store_shopper_credits(
  p_store_id uuid, p_shopper_email text, p_amount integer, p_request_id text, p_description text
) returns boolean
language plpgsql
as $$
begin
  update public.store_shopper_credits
     set balance = balance - p_amount, total_spent = total_spent + p_amount
   where store_id = p_store_id and shopper_email = p_shopper_email and balance >= p_amount;
  if not found then
    return false;
  end if;
  insert into public.store_credit_transactions (store_id, amount, type, request_id, description)
  values (p_store_id, p_amount, 'deduction', p_request_id, p_description);
  return true;
end
$$;

-- The unique key (store_id, request_id, type) makes a second call raise 23505; NULL request_ids are all
-- different to it, so there it pays twice.
create or replace function public.refund_store_credits(
  p_store_id uuid, p_amount integer, p_request_id text, p_description text
) returns void
language plpgsql
as $$
begin
  insert into public.store_credit_transactions (store_id, amount, type, request_id, description)
  values (p_store_id, p_amount, 'refund', p_request_id, p_description);
  update public.store_credits
     set balance = balance + p_amount, total_spent = total_spent - p_amount
   where store_id = p_store_id;
end
$$;

create or replace function public.refund_store_shopper_credits(
  p_store_id uuid, p_shopper_email text, p_amount integer, p_request_id text, p_description text
) returns void
language plpgsql
as $$
begin
  if p_shopper_email is null then
    raise exception 'shopper e-mail is missing';
  end if;
  update public.store_shopper_credits
     set balance = balance + p_amount, total_spent = total_spent - p_amount
   where store_id = p_store_id and shopper_email = p_shopper_email;
  if not found then
    raise exception 'shopper is not known to this store';
  end if;
  insert into public.store_credit_transactions (store_id, amount, type, request_id, description)
  values (p_store_id, p_amount, 'refund', p_request_id, p_description);
end
$$;

-- Users must not pay themselves.
revoke execute on function
  public.deduct_credits(uuid, integer, text),
  public.refund_credits(uuid, integer, text),
  public.deduct_store_credits(uuid, integer, text, text),
  public.deduct_store_shopper_credits(uuid, text, integer, text, text),
  public.refund_store_credits(uuid, integer, text, text),
  public.refund_store_shopper_credits(uuid, text, integer, text, text)
from public, anon, authenticated;
