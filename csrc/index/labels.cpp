#include "index/labels.h"

#include <cstring>

namespace gradfold {
namespace {

std::uint64_t scatter(std::uint64_t x) {
  x *= 0x9E3779B97F4A7C15u;
  return x ^ (x >> 32);
}

// A label that fits a register: the hash table compares the label itself.
template <class Word>
struct ShortLabel {
  const unsigned char* labels;
  std::uint64_t key(std::int64_t row) const {
    Word w;
    std::memcpy(&w, labels + row * static_cast<std::int64_t>(sizeof(Word)), sizeof w);
    return w;
  }
  bool same(std::int64_t, std::int64_t) const { return true; }
};

// A longer one (a string): the table compares a 64-bit digest, and then the bytes.
struct LongLabel {
  const unsigned char* labels;
  std::int64_t bytes;
  std::uint64_t key(std::int64_t row) const {
    const unsigned char* at = labels + row * bytes;
    std::uint64_t h = 0;
    std::int64_t i = 0;
    for (; i + 8 <= bytes; i += 8) {
      std::uint64_t w;
      std::memcpy(&w, at + i, 8);
      h = scatter(h ^ w) + static_cast<std::uint64_t>(i);
    }
    std::uint64_t w = 0;
    std::memcpy(&w, at + i, static_cast<std::size_t>(bytes - i));
    return scatter(h ^ w);
  }
  bool same(std::int64_t a, std::int64_t b) const {
    return std::memcmp(labels + a * bytes, labels + b * bytes, static_cast<std::size_t>(bytes)) == 0;
  }
};

template <class Label>
LabelCodes encode(const Label& label, std::int64_t n, std::int32_t* codes) {
  struct Slot {
    std::uint64_t key;
    std::int32_t code;  // -1: empty
  };
  std::vector<Slot> table(256, Slot{0, -1});
  LabelCodes found;
  for (std::int64_t row = 0; row < n; ++row) {
    const std::uint64_t key = label.key(row);
    const std::size_t mask = table.size() - 1;
    std::size_t at = scatter(key) & mask;
    while (table[at].code >= 0 && !(table[at].key == key && label.same(found.first_row[table[at].code], row)))
      at = (at + 1) & mask;
    if (table[at].code >= 0) {
      codes[row] = table[at].code;
      ++found.counts[table[at].code];
      continue;
    }
    codes[row] = static_cast<std::int32_t>(found.counts.size());
    table[at] = {key, codes[row]};
    found.first_row.push_back(row);
    found.counts.push_back(1);
    if (found.counts.size() * 2 < table.size()) continue;
    std::vector<Slot> larger(table.size() * 2, Slot{0, -1});
    for (const Slot& slot : table) {
      if (slot.code < 0) continue;
      std::size_t to = scatter(slot.key) & (larger.size() - 1);
      while (larger[to].code >= 0) to = (to + 1) & (larger.size() - 1);
      larger[to] = slot;
    }
    table.swap(larger);
  }
  return found;
}

}  // namespace

LabelCodes encode_labels(const void* labels, std::int64_t n, std::int64_t item_bytes, std::int32_t* codes) {
  const auto* bytes = static_cast<const unsigned char*>(labels);
  switch (item_bytes) {
    case 1: return encode(ShortLabel<std::uint8_t>{bytes}, n, codes);
    case 2: return encode(ShortLabel<std::uint16_t>{bytes}, n, codes);
    case 4: return encode(ShortLabel<std::uint32_t>{bytes}, n, codes);
    case 8: return encode(ShortLabel<std::uint64_t>{bytes}, n, codes);
    default: return encode(LongLabel{bytes, item_bytes}, n, codes);
  }
}

}  // namespace gradfold
