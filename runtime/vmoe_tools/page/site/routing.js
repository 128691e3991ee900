/** Where each MoE layer sent the tokens of the picture, from the outputs of the graph. */

/** The weight of choice `j` of a token, -1 where it was dropped; in a Soft MoE the share of expert `j` in what comes of it. */
function weightOf({ kept, weight, combine }, choices, token, j) {
  const at = token * choices + j;
  if (kept) return kept.data[at] ? weight.data[at] : -1;
  const slots = combine.dims[3];
  return combine.data.subarray(at * slots, (at + 1) * slots).reduce((sum, share) => sum + share, 0);
}

/**
 * Of each MoE layer: `expert`, for each token that the picture began with the expert that weighs most, -1 where it was
 * dropped; `token`, which one it is in now; `rows`, those that experts work on.
 */
export function readLayers(facts, outputs) {
  const members = facts.layout?.members ?? 1;
  return facts.layers.map((name, index) => {
    const given = Object.fromEntries(facts.layer_outputs.map((output) => [output, outputs[`${name}/${output}`]]));
    const { dims, data } = given.kept ?? given.combine, choices = members * dims[2];
    const best = new Int32Array((dims[0] * dims[1]) / members).fill(-1);
    best.forEach((_, token) => {
      for (let j = 0, most = -1; j < choices; j++) {
        const weight = weightOf(given, choices, token, j);
        if (weight > most) [most, best[token]] = [weight, given.expert?.data[token * choices + j] ?? j];
      }
    });
    const token = given.token?.data ?? best.map((_, at) => at);
    const counted = facts.flops?.of_class_pairs && index === facts.layers.length - 1 ? data.subarray(0, choices) : data;
    const rows = given.kept ? counted.reduce((sum, flag) => sum + flag, 0) : dims[0] * dims[2] * dims[3];
    return { expert: Int32Array.from(token, (at) => best[at]), token, rows };
  });
}
