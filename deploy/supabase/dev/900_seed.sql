-- Sample owners for local use. Running it again leaves balances as they have become.

insert into public.user_credits (user_id, balance, total_earned)
values ('11111111-1111-4111-8111-111111111111', 10, 10),
       ('22222222-2222-4222-8222-222222222222', 10, 10)
on conflict do nothing;

insert into public.stores (id, name, billing_mode)
values ('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'Absorb Apparel', 'absorb_mode'),
       ('bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb', 'Resell Rack', 'resell_mode'),
       ('cccccccc-cccc-4ccc-8ccc-cccccccccccc', 'Overage Outfits', 'absorb_mode')
on conflict do nothing;

-- The last one has nothing left: each of its try-ons is an overage.
insert into public.store_credits (store_id, balance, total_purchased)
values ('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 20, 20),
       ('bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb', 20, 20),
       ('cccccccc-cccc-4ccc-8ccc-cccccccccccc', 0, 0)
on conflict do nothing;

insert into public.store_shopper_credits (store_id, shopper_email, balance, total_purchased)
values ('bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb', 'shopper@example.com', 10, 10)
on conflict do nothing;
