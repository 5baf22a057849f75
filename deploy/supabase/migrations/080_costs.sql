-- What the provider's answers cost, for the operator: by day (UTC), channel and model.

-- Answers [{day, channel, model, answers, input_tokens, output_tokens, cost_usd, unpriced}], newest day first.
-- unpriced: answers of a model whose price is not known; they are missing in cost_usd.
create or replace function public.generation_costs(p_days integer) returns jsonb
language sql stable set search_path = ''
as $$
  select coalesce(jsonb_agg(to_jsonb(c) order by c.day desc, c.channel, c.model), '[]')
    from (
      select (u.created_at at time zone 'UTC')::date as day, u.channel, u.model,
             count(*) as answers,
             sum(u.input_tokens) as input_tokens,
             sum(u.output_tokens) as output_tokens,
             coalesce(sum(u.cost_usd), 0) as cost_usd,
             count(*) filter (where u.cost_usd is null) as unpriced
        from public.generation_usage u
       where u.created_at >= date_trunc('day', now() at time zone 'UTC') at time zone 'UTC'
                             - make_interval(days => greatest(p_days, 1) - 1)
       group by 1, 2, 3
    ) c
$$;

revoke execute on function public.generation_costs(integer) from public, anon, authenticated;
grant execute on function public.generation_costs(integer) to service_role;
