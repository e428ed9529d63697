#include "simd/lanes_serial.h"

#include "simd/apply-inl.h"

const gradfold::MathTable gradfold::math_table_serial{gradfold::apply<gradfold::F32>, gradfold::apply<gradfold::F64>,
                                                      gradfold::wrong_member_of_either};
