// Class labels as small integers: equal bytes, equal code.
#pragma once
#include <cstdint>
#include <vector>

namespace gradfold {

struct LabelCodes {
  std::vector<std::int64_t> first_row;  // of each code: the row where it was met first
  std::vector<std::int64_t> counts;     // of each code
};

// labels: n items of item_bytes each, side by side. Codes count from 0 in the order in which labels are met. A table of the labels, or a
// hash table where they are far apart: O(n), where a sort would be O(n log n).
LabelCodes encode_labels(const void* labels, std::int64_t n, std::int64_t item_bytes, std::int32_t* codes);

}  // namespace gradfold
