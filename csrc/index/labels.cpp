#include "index/labels.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

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

// Labels that are integers close to one another, of either sign: the table is indexed by the label itself.
template <class Word>
bool encode_close(const unsigned char* labels, std::int64_t n, std::int32_t* codes, LabelCodes& found) {
  using Signed = std::make_signed_t<Word>;
  const ShortLabel<Word> label{labels};
  const auto word = [&label](std::int64_t row) { return static_cast<Word>(label.key(row)); };
  if (n == 0) return false;
  Word low = word(0), high = low;
  Signed signed_low = static_cast<Signed>(low), signed_high = signed_low;
  for (std::int64_t row = 0; row < n; ++row) {
    const Word w = word(row);
    low = std::min(low, w), high = std::max(high, w);
    signed_low = std::min(signed_low, static_cast<Signed>(w)), signed_high = std::max(signed_high, static_cast<Signed>(w));
  }
  const Word plain_range = static_cast<Word>(high - low);
  const Word signed_range = static_cast<Word>(static_cast<Word>(signed_high) - static_cast<Word>(signed_low));
  const Word first = signed_range < plain_range ? static_cast<Word>(signed_low) : low;
  const std::uint64_t range = std::min(plain_range, signed_range);
  constexpr std::uint64_t kFew = 1 << 16;  // 256 KiB of codes
  if (range > std::max(kFew, static_cast<std::uint64_t>(n) / 4)) return false;
  std::vector<std::int32_t> code_of(static_cast<std::size_t>(range) + 1, -1);
  for (std::int64_t row = 0; row < n; ++row) {
    std::int32_t& code = code_of[static_cast<Word>(word(row) - first)];
    if (code < 0) {
      code = static_cast<std::int32_t>(found.first_row.size());
      found.first_row.push_back(row);
    }
    codes[row] = code;
  }
  found.counts.assign(found.first_row.size(), 0);
  for (std::int64_t row = 0; row < n; ++row) ++found.counts[codes[row]];
  return true;
}

template <class Word>
LabelCodes encode_words(const unsigned char* labels, std::int64_t n, std::int32_t* codes) {
  LabelCodes found;
  return encode_close<Word>(labels, n, codes, found) ? found : encode(ShortLabel<Word>{labels}, n, codes);
}

}  // namespace

LabelCodes encode_labels(const void* labels, std::int64_t n, std::int64_t item_bytes, std::int32_t* codes) {
  const auto* bytes = static_cast<const unsigned char*>(labels);
  switch (item_bytes) {
    case 1: return encode_words<std::uint8_t>(bytes, n, codes);
    case 2: return encode_words<std::uint16_t>(bytes, n, codes);
    case 4: return encode_words<std::uint32_t>(bytes, n, codes);
    case 8: return encode_words<std::uint64_t>(bytes, n, codes);
    default: return encode(LongLabel{bytes, item_bytes}, n, codes);
  }
}

}  // namespace gradfold
