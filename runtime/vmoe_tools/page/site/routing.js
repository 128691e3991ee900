/** The routing of the picture's tokens in each MoE layer, from the outputs of the graph. */

/** Return the weight of choice `j` of a token, -1 if it was dropped; in a Soft MoE, the share of expert `j` in its output. */
function weightOf({ kept, weight, combine }, choices, token, j) {
  const at = token * choices + j;
  if (kept) return kept.data[at] ? weight.data[at] : -1;
  const slots = combine.dims[3];
  return combine.data.subarray(at * slots, (at + 1) * slots).reduce((sum, share) => sum + share, 0);
}

/**
 * Return, for each MoE layer:
 * - `expert`: for each original token of the picture, the expert with the largest weight; -1 if the token was dropped
 * - `token`: for each original token, the index of the token that now contains it
 * - `rows`: the number of rows that experts process
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
