// Supabase as watchGeneration, getOutcome and resignResult meet it: one row, one channel, at the test's command.

export class FakeSupabase {
  row = null;
  /** Answers given instead of the row, in order. */
  answers = [];
  looks = [];
  channels = [];
  removed = [];
  calls = [];
  /** Run at each look, before it is answered. */
  whenLookedAt = async () => {};

  from(table) {
    const { looks, answers } = this;
    return {
      select: (columns) => ({
        eq: (column, value) => ({
          maybeSingle: async () => {
            looks.push({ table, columns: columns.split(","), column, value });
            const answer = answers.shift() ?? { data: this.row, error: null, status: 200 };
            await this.whenLookedAt();
            return answer;
          },
        }),
      }),
    };
  }

  channel(name) {
    const channel = {
      name,
      on(type, filter, update) {
        Object.assign(channel, { type, filter, update });
        return channel;
      },
      subscribe(report) {
        channel.report = report;
        return channel;
      },
    };
    this.channels.push(channel);
    return channel;
  }

  async removeChannel(channel) {
    this.removed.push(channel.name);
    return "ok";
  }

  /** The database changes the row and Realtime tells. */
  update(change) {
    this.row = { ...this.row, ...change };
    this.channels.at(-1).update({ new: this.row });
  }

  async rpc(name, parameters) {
    this.calls.push({ name, parameters });
    return this.answers.shift();
  }

  storage = {
    from: (bucket) => ({
      createSignedUrl: async (path, seconds) => {
        this.calls.push({ bucket, path, seconds });
        return this.answers.shift();
      },
    }),
  };
}
