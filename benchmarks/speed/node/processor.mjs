// The processor file of sandboxed workers.
import { run } from "./handlers.mjs";

export default async (job) => run(job.data);
