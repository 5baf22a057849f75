-- Written by `make generated` from packages/contracts/src/wearon_contracts/errors.py.

-- The sentence a shopper reads for an error code that names no picture.
create or replace function generation_private.sentence(p_code text) returns text
language sql immutable set search_path = ''
as $$
  select case p_code
    when 'invalid_task' then 'This try-on request could not be read. Please start it again from the app.'
    when 'session_not_found' then 'This try-on is not known. Please start it again from the app.'
    when 'stuck' then 'This try-on could not be finished in time. Please try again.'
    when 'cancelled' then 'This try-on was cancelled. You can start a new one at any time.'
    when 'attempts_exhausted' then 'This try-on was started several times and never finished. Please try again later.'
    when 'deadline_exceeded' then 'This try-on took too long. Please try again.'
    when 'result_not_stored' then 'The finished picture could not be saved. Please try again later.'
    when 'internal_error' then 'Something went wrong on our side. Please try again later.'
    when 'rate_limited' then 'Too many try-ons are being made right now. Please try again shortly.'
    when 'insufficient_quota' then 'Try-ons are not available right now. Please try again later.'
    when 'provider_unavailable' then 'The image service did not answer. Please try again in a few minutes.'
    when 'prompt_refused' then 'The image service refused the wording of this try-on. Please change or shorten it.'
    when 'provider_bad_answer' then 'The image service sent back no usable picture. Please try again.'
  end
$$;
