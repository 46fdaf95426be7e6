export {
  BufferAttribute, BufferGeometry, Color, DataTexture, DoubleSide, FloatType, FrontSide, Group, LineBasicMaterial, LineSegments, LinearFilter, Matrix3, Matrix4, Mesh, MeshBasicMaterial, NearestFilter, PerspectiveCamera, Points, Quaternion, Sphere, Spherical, Raycaster, RedFormat, RGBAFormat, Scene, ShaderMaterial, SphereGeometry, Uint8BufferAttribute, UnsignedByteType, Vector2, Vector3, WebGLRenderer, WebGLRenderTarget, SRGBColorSpace, LinearSRGBColorSpace, NoColorSpace, REVISION
} from "three";
export { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
