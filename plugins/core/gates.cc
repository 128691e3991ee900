#include "core/gates.h"

#include "core/tile_kernels.h"

namespace vmoe {

void compute_gates(const PackedWeights& router, const LayerNorm& norm, const float* x, size_t tokens, float* scratch,
                   float* gates) {
  const Kernels& kernels = router.kernels();
  const size_t hidden = router.depth();
  const size_t experts = router.columns();
  if (norm) {
    const auto normalize = tile_kernels_for(kernels.path).normalize;
    for (size_t token = 0; token < tokens; ++token) {
      normalize(x + token * hidden, norm.scale, norm.bias, hidden, scratch + token * hidden);
    }
    x = scratch;
  }
  for (size_t panel = 0; panel < router.panels(); ++panel) {
    PanelProduct product;
    product.rows = x;
    product.row_stride = hidden;
    product.row_count = tokens;
    product.depth = hidden;
    product.panel = reinterpret_cast<const float*>(router.panel_at(0, panel));
    product.columns = router.columns_of_panel(panel);
    product.out = gates + panel * kernels.panel_columns;
    product.out_stride = experts;
    kernels.product_f32(product);
  }
  for (size_t token = 0; token < tokens; ++token) kernels.softmax(gates + token * experts, experts);
}

}  // namespace vmoe
