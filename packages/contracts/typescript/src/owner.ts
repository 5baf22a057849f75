/** Whose session it is: a user's or a store's. */
export type SessionOwner =
  | { channel: "b2c"; userId: string; storeId?: undefined }
  | { channel: "b2b"; storeId: string; userId?: undefined };
